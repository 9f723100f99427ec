"""What README and the pages under examples/ say: links, commands, recipes and versions exist."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from conftest import REPOSITORY

from neumeta_cli import __version__
from neumeta_cli.cli.app import app
from neumeta_cli.shipped import recipe_files

DOCUMENTS = sorted(
    [
        REPOSITORY / "README.md",
        REPOSITORY / "CHANGELOG.md",
        *(REPOSITORY / ".github").glob("*.md"),
        *(REPOSITORY / "examples").rglob("*.md"),
    ]
)
GUIDES = [path for path in DOCUMENTS if path.name not in ("CHANGELOG.md", "CONTRIBUTING.md")]
TEXTS = [path for path in GUIDES if path.parent.name != "results"]  # these name other programs' too
MOST_LINES = 150  # of README, which is a door and no lab book
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
OPTION = re.compile(r"`(--[a-z][a-z-]+)")
EXTRA = re.compile(r"'\.\[(\w+)\]'")
COMMAND = re.compile(r"^    (?:\$ )?(neumeta .*)$|`(neumeta [^`]+)`", re.MULTILINE)


def named(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def headings(path: Path) -> set[str]:
    """Of a page, as links name them: lower case, no punctuation, hyphens for spaces."""
    found = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in found}


def commands(path: Path) -> list[list[str]]:
    """Every ``neumeta …`` of a page, as a shell splits it, without its comment and its ellipsis."""
    text = re.sub(r"\\\n\s*", "", path.read_text("utf-8"))
    found = (one or other for one, other in COMMAND.findall(text))
    return [shlex.split(line.replace("…", " "), comments=True)[1:] for line in found]


def every_command(group: Any) -> Iterator[Any]:
    yield group
    for command in getattr(group, "commands", {}).values():
        yield from every_command(command)


def options_of(command: Any) -> set[str]:
    names = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    return {*names, "--help"}


@pytest.mark.parametrize("page", DOCUMENTS, ids=named)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text("utf-8")):
        if link.startswith("https://"):
            continue
        file, _, heading = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{named(page)} links to {link}"
        assert target.is_relative_to(REPOSITORY)
        if heading:
            assert heading in headings(target), f"{named(page)} links to {link}"


@pytest.mark.parametrize("page", GUIDES, ids=named)
def test_every_command_and_option_that_a_page_shows_exists(page: Path) -> None:
    program = typer.main.get_command(app)
    for words in commands(page):
        command = program
        while words and not words[0].startswith("-") and hasattr(command, "commands"):
            assert words[0] in command.commands, f"neumeta {words[0]}"
            command = command.commands[words.pop(0)]
        options = options_of(command)
        for word in words:
            if word.startswith("-") and word != "-":
                assert word.partition("=")[0] in options, f"{named(page)}: {word} of {words}"


@pytest.mark.parametrize("page", TEXTS, ids=named)
def test_every_option_that_a_sentence_names_exists(page: Path) -> None:
    program = typer.main.get_command(app)
    known = {option for command in every_command(program) for option in options_of(command)}
    for option in OPTION.findall(page.read_text("utf-8")):
        assert option in known, f"{named(page)}: {option}"


@pytest.mark.parametrize("page", GUIDES, ids=named)
def test_every_extra_that_a_page_installs_exists(page: Path) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    for extra in EXTRA.findall(page.read_text("utf-8")):
        assert extra in project["optional-dependencies"]


@pytest.mark.parametrize("page", GUIDES, ids=named)
def test_every_recipe_that_a_page_runs_comes_along_or_is_a_file(page: Path) -> None:
    for words in commands(page):
        for option, value in pairwise(words):
            if option in ("--recipe", "-r"):
                assert value in recipe_files() or value.endswith(".yaml") or value == "NAME"


def test_pages_show_commands() -> None:
    assert {words[0] for page in GUIDES for words in commands(page)} >= {
        *("compare", "distill", "eval", "export", "fit", "info", "recipes", "report", "trace"),
        "train",
    }


def test_all_pages_are_reached_from_readme() -> None:
    reached, waiting = set(), [REPOSITORY / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        if page.suffix == ".md":
            links = LINK.findall(page.read_text("utf-8"))
            waiting += [
                (page.parent / link.partition("#")[0]).resolve()
                for link in links
                if not link.startswith(("https://", "#"))
            ]
    assert set(DOCUMENTS) <= reached
    assert set((REPOSITORY / "examples").glob("*.py")) <= reached


def test_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text("utf-8").splitlines()) < MOST_LINES


def test_readme_and_citation_name_this_version() -> None:
    citation = yaml.safe_load((REPOSITORY / ".github" / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == __version__
    assert citation["license"] == "MIT"
    assert f"Version {__version__}," in (REPOSITORY / "README.md").read_text("utf-8")

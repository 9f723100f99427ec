"""What is said in the terminal: widths as people type them, suggestions, help, what comes next."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from manifolds import saved_manifold, tiny_manifold
from test_cli import fails

import neumeta_cli
from neumeta_cli.__main__ import run
from neumeta_cli.checkpoint import resolve
from neumeta_cli.cli import completing
from neumeta_cli.cli.app import COMMANDS, GROUPS, RECIPES
from neumeta_cli.cli.helping import OPTIONS
from neumeta_cli.cli.options import WIDEST, parse_width, parse_widths
from neumeta_cli.cli.recipes import commented_yaml
from neumeta_cli.errors import NeumetaError
from neumeta_cli.manifold import save_manifold
from neumeta_cli.recipe import load_recipe
from neumeta_cli.shipped import recipe_files

TABLE = {
    "table": [
        {"method": "checkpoint", "width": 1.0, "metrics": {"top-1": 0.98}},
        {"method": "NeuMeta", "width": 1.0, "metrics": {"top-1": 0.96}},
        {"method": "NeuMeta", "width": 0.5, "metrics": {"top-1": 0.90}},
        {"method": "ℓ1 pruning", "width": 0.5, "metrics": {"top-1": 0.10}},
    ]
}


# Widths.


@given(st.integers(1, 400))
def test_a_percentage_is_the_width_it_says(percent: int) -> None:
    assert parse_width(f"{percent}%") == parse_width(str(percent / 100)) == percent / 100


@pytest.mark.parametrize(
    ("text", "meant"), [("50", "0.5 (50%)"), ("75", "0.75 (75%)"), ("150", "1.5 (150%)")]
)
def test_a_percentage_without_its_sign_is_asked_about(text: str, meant: str) -> None:
    with pytest.raises(NeumetaError, match=re.escape(f"did you mean {meant}?")):
        parse_width(text)
    assert parse_width(text, force=True) == float(text)


def test_more_than_four_times_the_channels_need_force() -> None:
    assert parse_width(f"{WIDEST}") == WIDEST
    for text in ("4.01", "401%", "1e6"):
        with pytest.raises(NeumetaError, match="--force"):
            parse_width(text)
        assert parse_width(text, force=True) > WIDEST


def test_lists_and_ranges_of_percentages() -> None:
    assert parse_widths("100%,0.75,50%") == [1.0, 0.75, 0.5]
    assert parse_widths("25%:100%:25%") == parse_widths("0.25:1:0.25") == [0.25, 0.5, 0.75, 1.0]
    for wrong in ("100,50", "10:100:10"):
        with pytest.raises(NeumetaError, match=r"did you mean \S+ \("):
            parse_widths(wrong)


def test_export_takes_percentages_and_refuses_what_is_hardly_meant(
    neumeta: Any, tmp_path: Path
) -> None:
    export = ["export", saved_manifold(tmp_path), "-o", "x.pt", "-q"]
    fails(neumeta(*export, "--width", "50"), "did you mean 0.5 (50%)?")
    fails(neumeta(*export, "--width", "conv2=50"), "did you mean 0.5 (50%)?")
    fails(neumeta(*export, "--widths", "50,25"), "did you mean 0.5 (50%)?")
    fails(neumeta(*export, "--channels", "conv1=99999"), "conv1 would have 99,999", "--force")
    assert not Path("x.pt").exists()
    assert neumeta(*export, "--width", "conv2=25%", "--width", "50%").code == 0
    small = neumeta_cli.load("x.pt")
    assert (small.conv1.out_channels, small.conv2.out_channels) == (8, 8)
    wide = ["--channels", "conv1=65", "--overwrite"]
    fails(neumeta(*export, *wide), "--force")
    assert neumeta(*export, *wide, "--force").code == 0
    assert neumeta_cli.load("x.pt").conv1.out_channels == 65


# Help, suggestions and completion.


@pytest.mark.parametrize("command", [*COMMANDS, "help", *(f"recipes {name}" for name in RECIPES)])
def test_every_help_begins_with_one_line_and_an_example(neumeta: Any, command: str) -> None:
    shown = neumeta(*command.split(), "-h")
    assert shown.code == 0
    assert shown.stdout == neumeta(*command.split(), "--help").stdout
    assert shown.stdout == neumeta("help", *command.split()).stdout
    usage, line, example, *_ = shown.stdout.split("\n\n")
    assert usage.startswith(f"Usage: neumeta {command} ")
    assert line.strip().endswith(".")
    assert "\n" not in line
    assert example.startswith(f"  Example: neumeta {command}")
    assert "\n" not in example


def test_every_option_of_help_has_a_group(neumeta: Any) -> None:
    for command in COMMANDS:
        options = neumeta(command, "-h").stdout.partition("\nOptions:\n")[2]
        named = {word for word in re.findall(r"--[a-z-]+", options) if word != "--json"}
        assert named == {"--quiet", "--debug", "--help"}, command
    assert set(OPTIONS.values()) < {*OPTIONS.values(), "Options"}


def test_neumeta_alone_shows_a_session_and_groups(neumeta: Any) -> None:
    alone = neumeta()
    assert alone.code == 0
    assert alone.stdout == neumeta("--help").stdout == neumeta("help").stdout
    steps = re.findall(r"\d\. neumeta (\w+)", alone.stdout)
    assert steps == ["trace", "distill", "eval", "export"]
    for group, commands in GROUPS.items():
        under = alone.stdout.partition(f"\n{group}:\n")[2].partition("\n\n")[0]
        assert set(commands) <= {line.split()[0] for line in under.splitlines()}
    assert alone.stdout.count("...") == 1  # that of the usage: no line is cut


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["exprt"], "export"),
        (["help", "exprt"], "export"),
        (["recipes", "lst"], "list"),
        (["export", "--widht", "0.5"], "--width"),
        (["fit", "--epoch", "3"], "--epochs"),
    ],
)
def test_a_wrong_word_suggests_the_nearest(
    neumeta: Any, arguments: list[str], nearest: str
) -> None:
    result = neumeta(*arguments)
    fails(result, f"did you mean {nearest}?", "--help", code=2)
    assert len(result.stderr.splitlines()) == 1


def test_a_wrong_recipe_or_architecture_suggests_the_nearest(neumeta: Any) -> None:
    fails(neumeta("recipes", "show", "digits_lent"), "did you mean digits_lenet")
    with pytest.raises(NeumetaError) as error:
        resolve("zoo/lenet_digts")
    assert "did you mean lenet_digits" in str(error.value)
    with pytest.raises(NeumetaError) as error:
        resolve("resnet188")
    names = str(error.value).partition("did you mean ")[2].partition("?")[0].split(", ")
    assert len(set(names)) == len(names)


def test_a_missing_option_is_one_line(neumeta: Any) -> None:
    result = neumeta("export")
    fails(result, "--output", "neumeta export --help", code=2)
    assert len(result.stderr.splitlines()) == 1


def completed(neumeta: Any, monkeypatch: pytest.MonkeyPatch, line: str) -> list[str]:
    words = line.split(" ")
    monkeypatch.setenv("_NEUMETA_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    return list(neumeta().stdout.split())


def test_shells_complete_recipes_architectures_and_commands(
    neumeta: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("digits_mine.yaml").touch()
    said = completed(neumeta, monkeypatch, "neumeta fit --recipe digits_")
    assert said == ["digits_ablation", "digits_lenet", "digits_mine.yaml"]
    assert completed(neumeta, monkeypatch, "neumeta recipes show aut") == ["auto"]
    said = completed(neumeta, monkeypatch, "neumeta trace torchvision/resnet1")
    assert said == [f"torchvision/resnet{depth}" for depth in (101, 152, 18)]
    assert "resnet18" in completed(neumeta, monkeypatch, "neumeta permute x --arch resnet1")
    assert "zoo/lenet" in completed(neumeta, monkeypatch, "neumeta trace zoo/le")
    assert completed(neumeta, monkeypatch, "neumeta exp") == ["export"]


def test_completion_is_shown_and_installed_for_the_users_shell(
    neumeta: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import shellingham

    def undetected() -> tuple[str, str]:
        raise shellingham.ShellDetectionFailure

    monkeypatch.setattr(shellingham, "detect_shell", undetected)
    monkeypatch.setenv("SHELL", "/usr/bin/zsh")
    assert "#compdef neumeta" in neumeta("--show-completion").stdout
    monkeypatch.setenv("SHELL", "/bin/bash")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert neumeta("--install-completion").code == 0
    assert "_NEUMETA_COMPLETE" in (tmp_path / ".bash_completions" / "neumeta.sh").read_text()
    monkeypatch.delenv("SHELL")
    fails(neumeta("--show-completion"), "set SHELL", code=2)


def test_completion_needs_no_folder_that_is_there() -> None:
    assert completing.complete_recipe("nowhere/") == []


# What comes next, and what is left.


def test_export_says_what_is_left_and_what_the_manifold_knows(neumeta: Any, tmp_path: Path) -> None:
    manifold = tiny_manifold(**TABLE)
    path = save_manifold(tmp_path / "m.safetensors", manifold)
    result = neumeta("export", path, "--width", "0.75", "-o", "x.pt")
    cliques = len(manifold.frame.trace.cliques)
    frame = manifold.frame
    share = frame.cost(frame.sizes(0.75)).parameters / frame.cost(frame.full).parameters
    assert f"{cliques} of {cliques} cliques narrowed: {share:.0%} of the para" in result.stdout
    assert "top-1 about 93.00%, interpolated between widths 0.5 and 1" in result.stdout
    assert "96.00% at full width" in result.stdout
    assert result.stderr.splitlines()[-1] == "next: neumeta eval x.pt"
    one = neumeta("export", path, "--width", "conv2=0.5", "-o", "y.pt")
    assert f"1 of {cliques} cliques narrowed" in one.stdout
    assert "interpolated" not in one.stdout
    silent = neumeta("export", path, "--width", "0.5", "-o", "z.pt", "--json", "-")
    assert "next:" not in silent.stderr
    assert json.loads(silent.stdout)["parameters_left"] < share


def test_the_next_command_names_the_file_and_quiet_is_silent(neumeta: Any, tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    path = saved_manifold(folder)
    told = neumeta("info", path)
    assert told.stderr.splitlines() == [f"next: neumeta export '{path}' --width 0.5 -o small.pt"]
    assert neumeta("info", path, "-q").stderr == ""
    assert neumeta("info", path, "--json", "-").stderr == ""


def test_an_export_replaces_a_file_only_when_told(neumeta: Any, tmp_path: Path) -> None:
    export = ["export", saved_manifold(tmp_path), "--width", "0.5", "-o", "x.pt", "-q"]
    Path("x.pt").write_text("mine")
    fails(neumeta(*export), "x.pt exists", "--overwrite")
    assert Path("x.pt").read_text() == "mine"
    assert neumeta(*export, "--overwrite").code == 0
    assert neumeta_cli.load("x.pt").conv1.out_channels == 8


def test_a_fit_replaces_a_finished_run_only_when_told(neumeta: Any) -> None:
    Path("run/report").mkdir(parents=True)
    Path("run/report/table.json").write_text("{}")
    fit = ["fit", "-r", "digits_lenet", "--run", "run", "--set", "fit.epoch=1"]
    fails(neumeta(*fit), "run holds a finished run", "--overwrite")
    fails(neumeta(*fit, "--overwrite"), "did you mean fit.epochs")  # it went on
    assert os.listdir("run") == ["report"]


def test_permuting_writes_into_the_folder_where_one_is(
    neumeta: Any, build: Any, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    torch.save(build("lenet_digits")[0].state_dict(), shared / "lenet_digits.pth")
    result = neumeta("permute", shared / "lenet_digits.pth", "--solver", "greedy")
    assert result.code == 0
    assert [path.name for path in shared.iterdir()] == ["lenet_digits.pth"]
    assert Path("lenet_digits.permuted.pth").is_file()
    wanted = "next: neumeta distill lenet_digits.permuted.pth --arch zoo/lenet_digits --data DIR"
    assert result.stderr.splitlines()[-1] == wanted


# Recipes.


@pytest.mark.parametrize("name", recipe_files())
def test_what_differs_from_the_defaults_is_the_whole_recipe(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    text, every = commented_yaml(recipe, every=False), commented_yaml(recipe)
    assert len(text.splitlines()) < len(every.splitlines())
    assert "base:" not in text
    file = tmp_path / "again.yaml"
    file.write_text(text, encoding="utf-8")
    assert load_recipe(str(file)) == recipe


def test_recipes_show_what_differs_or_everything(neumeta: Any) -> None:
    short = neumeta("recipes", "show", "cifar10_resnet20_all")
    whole = neumeta("recipes", "show", "cifar10_resnet20_all", "--all")
    assert "--all" in short.stderr
    assert whole.stderr == ""
    assert set(short.stdout.splitlines()) <= set(whole.stdout.splitlines())
    assert len(whole.stdout.splitlines()) > 2 * len(short.stdout.splitlines())


# doctor


def test_the_doctor_tells_what_a_bug_report_needs(neumeta: Any) -> None:
    document = json.loads(neumeta("doctor", "--json", "-").stdout)
    assert document["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert document["torch"]["threads"] >= 1
    assert document["machine"]["memory"].endswith("GiB")
    assert "onnx" in document["optional packages"]
    text = neumeta("doctor").stdout
    for title in document:
        assert f"{title}\n" in text


def test_an_internal_error_asks_for_the_doctors_words(
    neumeta: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> dict[str, Any]:
        raise RuntimeError("a defect")

    monkeypatch.setattr("neumeta_cli.cli.doctor.examination", broken)
    fails(neumeta("doctor"), "internal: RuntimeError: a defect", "neumeta doctor")


def test_ctrl_c_before_a_command_begins_shows_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("neumeta_cli.cli.main", stopped)
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 130
    assert capsys.readouterr().err == ""


def test_usage_errors_exit_with_two(neumeta) -> None:
    for arguments in (("export",), ("fit", "--nonsense"), ("permute",)):
        assert neumeta(*arguments).code == 2

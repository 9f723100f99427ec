"""The recipes that come with neumeta, as files: found and listed without reading every field.

A file whose name begins with an underscore is a base: what a family of recipes has in common.
"""

from pathlib import Path

PACKAGE = Path(__file__).parent
FOLDERS = (PACKAGE / "recipes", PACKAGE.parent / "recipes")  # in the wheel; in the repository


def recipe_files() -> dict[str, Path]:
    """Every recipe that comes with neumeta, by name."""
    return {name: path for name, path in _files().items() if not name.startswith("_")}


def recipe_summaries() -> dict[str, dict[str, str]]:
    """The network and the description of every recipe that comes with neumeta, by name.

    Read from their lines, since a YAML library takes longer to import than the rest of a list.
    """
    return {
        name: {"arch": _arch(path), "description": _value(path.read_text("utf-8"), "description")}
        for name, path in recipe_files().items()
    }


def is_file_name(recipe: str) -> bool:
    """Whether a recipe is asked for by its file, not by its name."""
    return Path(recipe).suffix in (".yaml", ".yml")


def base_file(base: str, file: Path) -> Path | None:
    """The file of the base that a recipe's file names, None if no recipe has this name."""
    return file.parent / base if is_file_name(base) else _files().get(base)


def _files() -> dict[str, Path]:
    return {p.stem: p for folder in FOLDERS for p in sorted(folder.glob("*.yaml"))}


def _arch(file: Path) -> str:
    """The network that a recipe names, or else its base."""
    text = file.read_text("utf-8")
    base = base_file(_value(text, "base"), file)
    return _value(text, "  arch") or (_arch(base) if base else "")


def _value(text: str, key: str) -> str:
    """What stands behind ``key: `` at the beginning of a line; nothing if no line begins so."""
    start = f"{key}: "
    found = (line for line in text.splitlines() if line.startswith(start))
    return next(found, start).removeprefix(start)

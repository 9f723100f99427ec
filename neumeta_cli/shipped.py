"""The recipes that come with neumeta, as files: found and listed without reading every field."""

from pathlib import Path

PACKAGE = Path(__file__).parent
FOLDERS = (PACKAGE / "recipes", PACKAGE.parent / "recipes")  # in the wheel; in the repository


def recipe_files() -> dict[str, Path]:
    """Every recipe that comes with neumeta, by name."""
    return {p.stem: p for folder in FOLDERS for p in sorted(folder.glob("*.yaml"))}


def recipe_summaries() -> dict[str, dict[str, str]]:
    """The network and the description of every recipe that comes with neumeta, by name.

    Read from their lines, since a YAML library takes longer to import than the rest of a list.
    """
    return {
        name: {
            "arch": _value(text, "  arch"),
            "description": _value(text, "description"),
        }
        for name, text in ((n, p.read_text("utf-8")) for n, p in recipe_files().items())
    }


def _value(text: str, key: str) -> str:
    """What stands behind ``key: `` at the beginning of a line."""
    start = f"{key}: "
    found = (line for line in text.splitlines() if line.startswith(start))
    return next(found, start).removeprefix(start)

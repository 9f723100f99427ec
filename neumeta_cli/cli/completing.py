"""What a shell completes beside commands and options, and how it learns to."""

import os
from pathlib import Path
from typing import Any

import typer
from typer.completion import install_callback, show_callback

from neumeta_cli.shipped import recipe_summaries

AUTO = "auto"
RECIPE_ENDINGS = (".yaml", ".yml")


def complete_recipe(incomplete: str) -> list[str]:
    """Recipes that come with neumeta, and files of recipes."""
    return _beginning_with(incomplete, [*recipe_summaries(), *_recipe_files(incomplete)])


def complete_shown_recipe(incomplete: str) -> list[str]:
    """The same, and the recipe that is made for a network."""
    return [*_beginning_with(incomplete, [AUTO]), *complete_recipe(incomplete)]


def complete_arch(incomplete: str) -> list[str]:
    """Architectures of ours, torchvision's and timm's, with or without the library before them."""
    from neumeta_cli.signatures import architecture_names

    every = architecture_names()
    found = _beginning_with(incomplete, every)
    return found or _beginning_with(incomplete, dict.fromkeys(n.partition("/")[2] for n in every))


def complete_device(incomplete: str) -> list[str]:
    """Where a network can be computed."""
    return _beginning_with(incomplete, ["auto", "cpu", "cuda"])


def install_completion(ctx: Any, param: Any, wanted: Any) -> Any:
    """Teach the user's shell; which one that is, is found out."""
    return install_callback(ctx, param, _shell() if wanted else wanted)


def show_completion(ctx: Any, param: Any, wanted: Any) -> Any:
    """Print what the user's shell would have to read."""
    return show_callback(ctx, param, _shell() if wanted else wanted)


def _shell() -> str:
    """The shell that runs this program, else the user's own."""
    import shellingham  # type: ignore[import-untyped]

    try:
        return str(shellingham.detect_shell()[0])
    except shellingham.ShellDetectionFailure as failure:
        if shell := os.environ.get("SHELL"):
            return Path(shell).name
        raise typer.BadParameter("which shell this is cannot be found out; set SHELL") from failure


def _recipe_files(incomplete: str) -> list[str]:
    folder = Path(incomplete).parent if "/" in incomplete else Path()
    if not folder.is_dir():
        return []
    return sorted(str(path) for path in folder.iterdir() if path.suffix in RECIPE_ENDINGS)


def _beginning_with(incomplete: str, names: Any) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]

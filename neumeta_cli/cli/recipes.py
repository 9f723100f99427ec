"""``neumeta recipes``."""

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neumeta_cli.checkpoint import require_there
from neumeta_cli.cli.completing import AUTO, complete_shown_recipe
from neumeta_cli.cli.console import TerminalReporter, echo, note, to_json, write_json
from neumeta_cli.cli.options import ArchOption, CheckpointOption, DataOption, Json, SetOption
from neumeta_cli.errors import NeumetaError
from neumeta_cli.shipped import recipe_summaries

if TYPE_CHECKING:
    from neumeta_cli.recipe import Recipe


def list_recipes(json: Json = None) -> None:
    """List the recipes that come with neumeta.

    Example: neumeta recipes list
    """
    document = recipe_summaries()
    write_json(json, document)
    if json != "-":
        name_width = max(map(len, document))
        arch_width = max(len(about["arch"]) for about in document.values())
        for name, about in document.items():
            echo(f"{name:{name_width}}  {about['arch']:{arch_width}}  {about['description']}")


def show_recipe(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE|auto",
            autocompletion=complete_shown_recipe,
            help="A recipe; auto: the one that fit and distill would make for --checkpoint.",
        ),
    ],
    checkpoint: CheckpointOption = None,
    arch: ArchOption = None,
    data: DataOption = None,
    set_: SetOption = None,
    every: Annotated[
        bool, typer.Option("--all", help="Print every field, also those with their defaults.")
    ] = False,
) -> None:
    """Print a recipe, with a comment for each field.

    Only what differs from the defaults, but also what its bases say: the output is a whole recipe.

    Example: neumeta recipes show auto --checkpoint resnet18.pth --data my_images/
    """
    if name != AUTO:
        from neumeta_cli.recipe import load_recipe

        _show(load_recipe(name, set_ or []), every)
        return
    if checkpoint is None:
        raise NeumetaError("recipes show auto: name the network, --checkpoint FILE")
    require_there(checkpoint)
    from neumeta_cli.checkpoint import load_checkpoint
    from neumeta_cli.cli.adapting import automatic

    loaded = load_checkpoint(checkpoint, arch, reporter=TerminalReporter())
    _show(automatic(loaded, set_, data), every)


def _show(recipe: "Recipe", every: bool) -> None:
    typer.echo(commented_yaml(recipe, every), nl=False)
    if not every:
        note("all else has its default; --all prints that too")


def schema() -> None:
    """Print the JSON schema of a recipe.

    Example: neumeta recipes schema > recipe.schema.json
    """
    from neumeta_cli.recipe import recipe_schema

    typer.echo(to_json(recipe_schema()))


def commented_yaml(recipe: "Recipe", every: bool = True) -> str:
    """A recipe as YAML that says of each field what it means.

    Args:
        recipe: with its bases.
        every: also the fields that have their defaults.

    """
    import yaml

    from neumeta_cli.recipe import field_paths

    comments = field_paths()
    section, lines = "", []
    content = recipe.model_dump(mode="json") if every else without_defaults(recipe)
    for line in yaml.safe_dump(content, sort_keys=False, width=math.inf).splitlines():
        key = line.partition(":")[0]
        if not line.startswith((" ", "-")):
            section = key
        path = section if key == section else f"{section}.{key.strip()}"
        comment = comments.get(path, "") if not line.lstrip().startswith("- ") else ""
        lines.append(f"{line}  # {comment}" if comment else line)
    return "\n".join(lines) + "\n"


def without_defaults(recipe: "Recipe") -> dict[str, Any]:
    """The fields of a recipe that differ from the defaults; a section's kind stays with it."""
    content: dict[str, Any] = recipe.model_dump(mode="json", exclude_defaults=True)
    whole: dict[str, Any] = recipe.model_dump(mode="json")
    kinds = {n: s["kind"] for n, s in whole.items() if isinstance(s, dict) and "kind" in s}
    return {
        name: {"kind": kinds[name]} | content.get(name, {}) if name in kinds else content[name]
        for name in whole
        if name in content or name in kinds
    }

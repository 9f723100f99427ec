"""``neumeta help``."""

from typing import Annotated, Any

import typer


def show_help(
    ctx: typer.Context,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND", help="Which command; all if left out.")
    ] = None,
) -> None:
    """Show what a command does, as its --help does.

    Example: neumeta help export
    """
    shown: Any = ctx.find_root()
    for name in command or ():
        if not hasattr(shown.command, "resolve_command"):
            raise typer.BadParameter(f"{shown.command_path} has no commands of its own")
        _, found, _ = shown.command.resolve_command(shown, [name])
        shown = type(shown)(found, info_name=name, parent=shown)
    typer.echo(shown.command.get_help(shown))

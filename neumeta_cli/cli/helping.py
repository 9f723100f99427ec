"""How help is laid out, and ``neumeta help``."""

from typing import Annotated, Any

import typer

START, INSPECT, MEASURE, SHIP = "Start here", "Inspect", "Measure", "Ship"  # groups of commands
SESSION = (
    ("neumeta trace resnet18.pth", "what can shrink (permute: in a smooth order)"),
    (
        "neumeta distill resnet18.pth --data my_images/",
        "one file for all widths (fit: and a table)",
    ),
    ("neumeta eval manifold.safetensors --data my_images/", "how accurate each width is"),
    ("neumeta export manifold.safetensors --width 0.5 -o small.pt", "a network of that width"),
)
PANELS = ("What goes in", "Which network", "How long and how", "Where it goes", "Options")
GIVEN, WANTED, HOW, PLACE, REST = PANELS  # groups of options
OPTIONS = {
    **dict.fromkeys(("checkpoint", "weights_key", "arch", "input_size", "trust_code"), GIVEN),
    **dict.fromkeys(("data", "test_data", "skip_broken", "download"), GIVEN),
    **dict.fromkeys(("recipe", "scope", "set_", "init", "calibrate"), GIVEN),
    **dict.fromkeys(("width", "widths", "channels", "round_to", "force", "samples"), WANTED),
    **dict.fromkeys(("max_params", "max_macs", "max_size", "max_latency"), WANTED),
    **dict.fromkeys(("target_accuracy", "search", "search_samples", "fold"), WANTED),
    **dict.fromkeys(("dtype", "batch", "depth"), WANTED),
    **dict.fromkeys(("epochs", "yes", "dry_run", "resume", "device"), HOW),
    **dict.fromkeys(("seed", "seeds", "methods"), HOW),
    **dict.fromkeys(("solver", "time_limit", "norm", "weighting", "latency"), HOW),
    **dict.fromkeys(("output", "run", "ending", "json", "plot", "collapse", "save_recipe"), PLACE),
    "overwrite": PLACE,
}


def write_options(command: Any, ctx: Any, formatter: Any) -> None:
    """Write a command's arguments and options, those of one kind together."""
    groups: dict[str, list[Any]] = {name: [] for name in ("Arguments", *PANELS)}
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record is not None:
            argument = param.param_type_name == "argument"
            groups["Arguments" if argument else OPTIONS.get(param.name, REST)].append(record)
    _write(formatter, groups)


def write_commands(group: Any, ctx: Any, formatter: Any) -> None:
    """Write a group's commands, those for one purpose together."""
    names = group.list_commands(ctx)
    room = formatter.width - 6 - max(map(len, names))
    panels: dict[str, list[Any]] = {}
    for name in names:
        command = group.commands.outline(name)
        line = (name, command.get_short_help_str(room))
        panels.setdefault(command.rich_help_panel or "Commands", []).append(line)
    _write(formatter, panels)


def write_session(formatter: Any) -> None:
    """Write what one usually does, one command after another."""
    with formatter.section("A session"):
        for number, (command, about) in enumerate(SESSION, 1):
            formatter.write(f"{'':{formatter.current_indent}}{number}. {command}\n")
            formatter.write(f"{'':{formatter.current_indent}}   {about}\n")


def with_example_first(about: str) -> str:
    """A docstring with its first example behind its first line, none of them broken in help."""
    first, *rest = about.split("\n\n")
    examples = [f"\b\n{part}" for part in rest if part.startswith("Example: ")]
    others = [part for part in rest if not part.startswith("Example: ")]
    return "\n\n".join([first, *examples[:1], *others, *examples[1:]])


def _write(formatter: Any, groups: dict[str, list[Any]]) -> None:
    for title, records in groups.items():
        if records:
            with formatter.section(title):
                formatter.write_dl(records)


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

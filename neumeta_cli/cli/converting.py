"""``neumeta export`` of a file that holds one network: in another format, at its own width."""

from pathlib import Path
from typing import TYPE_CHECKING

from neumeta_cli.cli.console import escape, note, say, write_json
from neumeta_cli.cli.gains import tell_next
from neumeta_cli.cli.options import keep_what_is_there
from neumeta_cli.errors import NeumetaError

if TYPE_CHECKING:
    from neumeta_cli.export import Finish


def convert(
    source: Path,
    output: Path,
    finish: "Finish",
    overwrite: bool,
    json: str | None,
    trust_code: bool,
) -> None:
    """Write an exported network, or a checkpoint, in the format that the output's ending says."""
    from neumeta_cli.export import describe, rewrite
    from neumeta_cli.export.programs import PROGRAMS

    if output.resolve() == source.resolve():
        raise NeumetaError(f"{output} is the network itself; give another name with -o")
    keep_what_is_there(output, overwrite)
    note(f"network: {source}")
    rewrite(source, output, finish, trust_code=trust_code)
    known = describe(output)
    document = {"network": str(source), "output": str(output)}
    kept = ("parameters", "macs", "bytes", "dtype")
    write_json(json, document | {name: known.get(name) for name in kept})
    if json == "-":
        return
    cost = f"{known['parameters']:,} parameters, {known['macs']:,} MACs"
    say(f"{cost}, {known['bytes']:,} bytes, {known.get('dtype', finish.dtype)}")
    say(f"written: {escape(str(output))}")
    tell_next(json, "info" if output.suffix in PROGRAMS else "eval", output)

"""Ctrl-C while a command is still importing what it needs ends it without a traceback."""

import signal
from pathlib import Path

import pytest
from programs import Program

# Runs neumeta, and holds it where a module is imported, as if that took long.
SLOW = """
import sys, time
from importlib.abc import MetaPathFinder

class Held(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == MODULE:
            print("importing", flush=True)
            time.sleep(60)

from neumeta_cli.__main__ import run

for name in [name for name in sys.modules if name.startswith(MODULE)]:
    del sys.modules[name]
sys.meta_path.insert(0, Held())
sys.argv[0] = "neumeta"
run()
"""


@pytest.mark.slow
@pytest.mark.parametrize("module", ["neumeta_cli.cli", "neumeta_cli.cli.fitting"])
def test_an_interrupt_in_the_first_seconds_shows_no_traceback(module: str, tmp_path: Path) -> None:
    code = f"MODULE = {module!r}{SLOW}"
    program = Program("-c", code, "fit", "-r", "imagenet_r18", cwd=tmp_path)
    assert program.stdout.readline() == "importing\n"
    program.send_signal(signal.SIGINT)
    out, errors = program.communicate()
    assert program.returncode == 130
    assert (out, errors) == ("", "")
    assert not list(tmp_path.iterdir())

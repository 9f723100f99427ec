"""Programs that run without neumeta are measured as what they are: by what runs them."""

import json
from pathlib import Path

import pytest
from manifolds import saved_manifold
from test_cli import fails

from neumeta_cli.cli.gains import tell_export_next


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "dtype"), [(".onnx", "float32"), (".pt2", "float16")])
def test_eval_runs_a_program_and_finds_what_the_network_in_torch_has(
    neumeta, tmp_path: Path, ending: str, dtype: str
) -> None:
    manifold = saved_manifold(tmp_path)
    measured = {}
    for file in ("small.pt", f"small{ending}"):
        told = neumeta("export", manifold, "--width", "0.5", "-o", file, "--dtype", dtype)
        assert f"next: neumeta eval {file}" in told.stderr
        found = neumeta("eval", file, "--json", "-")
        assert found.code == 0, found.stderr
        measured[file] = json.loads(found.stdout)
    one, other = (document["rows"][0] for document in measured.values())
    assert other["metrics"]["top-1"] == pytest.approx(one["metrics"]["top-1"], abs=3 / 359)
    assert (other["parameters"], other["macs"]) == (one["parameters"], one["macs"])
    assert other["bytes"] == Path(f"small{ending}").stat().st_size
    assert other["seconds_batch_1"] > 0


def test_a_program_that_is_none_is_refused(neumeta, tmp_path: Path) -> None:
    Path("x.onnx").write_bytes(b"no program")
    fails(neumeta("eval", "x.onnx"), "cannot read x.onnx")
    fails(neumeta("eval", "none.onnx"), "none.onnx")


@pytest.mark.parametrize("own", [True, False])
def test_the_next_command_after_own_code_runs_it_again(capsys, own: bool) -> None:
    tell_export_next(None, "m.safetensors", own)
    assert capsys.readouterr().err.rstrip().endswith("--trust-code") == own

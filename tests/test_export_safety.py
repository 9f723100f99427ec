"""An export that is stopped, fails or runs twice leaves whole files or none."""

import os
import signal
import tempfile
import time
from pathlib import Path

import pytest
from manifolds import saved_manifold, tiny_manifold
from programs import Program

from neumeta_cli.checkpoint.atomic import ABANDONED, write_text
from neumeta_cli.errors import NeumetaError
from neumeta_cli.export import export_network, load

# The program itself, but a disk so slow that half of the file takes for ever.
SLOW = """
import io, signal, sys, time, torch
from neumeta_cli.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
save = torch.save
def slow(content, path):
    whole = io.BytesIO()
    save(content, whole)
    with open(path, "wb") as file:
        file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
        file.flush()
        print("writing", file=sys.stderr, flush=True)
        time.sleep(600)
torch.save = slow
sys.argv = ["neumeta", "export", *sys.argv[1:]]
main()
"""
FULL = """
import resource, sys
from pathlib import Path
from neumeta_cli.errors import NeumetaError
from neumeta_cli.export import export_network, load
manifold = load(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
for suffix in (".pt", ".safetensors", ".onnx", ".pt2"):
    try:
        export_network(manifold, Path(sys.argv[2]) / f"x{suffix}", 0.5)
    except NeumetaError as error:
        print(error)
"""


FULL_ANYWHERE = """
import resource, sys, torch
from pathlib import Path
from neumeta_cli.checkpoint.atomic import write_atomically
from neumeta_cli.errors import NeumetaError
state = {"weights": torch.randn(4000), "name": "x" * 5000}
write = lambda path: torch.save(state, path)
whole = write_atomically(Path(sys.argv[1]) / "x.pt", write).stat().st_size
limits = [*range(0, whole, 251), whole - 1]
for limit in limits:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write_atomically(Path(sys.argv[1]) / "y.pt", write)
    except NeumetaError as error:
        assert str(error).startswith(f"cannot write {sys.argv[1]}/y.pt: not all"), error
    else:
        raise SystemExit(f"{whole} bytes were written with room for {limit}")
print(len(limits))
"""


def wait_until_writing(process: Program) -> None:
    for line in process.stderr:
        if line.strip() == "writing":
            return
    raise AssertionError("the export was over before it wrote")


@pytest.mark.slow
def test_a_stopped_export_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """SIGKILL cannot be tidied up after; the next export for the same path does, an hour later."""
    manifold = saved_manifold(tmp_path)
    stops = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    folders = {number: tmp_path / f"{number.name} ü" for number in stops}
    processes = {}
    for number, folder in folders.items():
        folder.mkdir()
        (folder / "x.pt").write_text("old")
        processes[number] = Program(
            "-c", SLOW, manifold, "--width", "0.5", "--overwrite", "-o", folder / "x.pt"
        )
    for number, process in processes.items():
        wait_until_writing(process)
        assert len(list(folders[number].iterdir())) == 2
        process.send_signal(number)
        _, errors = process.communicate()
        assert process.returncode == {2: 130, 15: 143, 9: -9}[number]
        assert "Traceback" not in errors
        assert (folders[number] / "x.pt").read_text() == "old"
    left = {n: [p for p in f.iterdir() if p.name != "x.pt"] for n, f in folders.items()}
    assert left[signal.SIGINT] == left[signal.SIGTERM] == []
    (partial,) = left[signal.SIGKILL]
    export_network(load(manifold), folders[signal.SIGKILL] / "x.pt", 0.5)
    assert partial.exists()  # somebody might still be writing it
    old = time.time() - ABANDONED - 1
    os.utime(partial, (old, old))
    export_network(load(manifold), folders[signal.SIGKILL] / "x.pt", 0.5)
    assert [p.name for p in folders[signal.SIGKILL].iterdir()] == ["x.pt"]


@pytest.mark.slow
def test_a_full_disk_refuses_every_format_and_leaves_nothing(tmp_path: Path) -> None:
    """Files may grow no larger than 4 KiB."""
    folder = tmp_path / "full"
    folder.mkdir()
    program = Program("-c", FULL, saved_manifold(tmp_path), folder)
    out, errors = program.communicate()
    assert program.returncode == 0, errors
    lines = out.splitlines()
    assert len(lines) == 4
    for line, suffix in zip(lines, (".pt", ".safetensors", ".onnx", ".pt2"), strict=True):
        assert line.startswith(f"cannot write {folder}/x{suffix}: ")
    assert not list(folder.iterdir())


def test_a_disk_that_fills_up_anywhere_in_a_file_is_said(tmp_path: Path) -> None:
    """In its last bytes, too, of which torch says something else."""
    program = Program("-c", FULL_ANYWHERE, tmp_path)
    out, errors = program.communicate()
    assert program.returncode == 0, errors
    assert int(out) > 80
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


@pytest.mark.slow
def test_two_exports_to_one_file_end_with_one_whole_file(tmp_path: Path) -> None:
    manifold, target = saved_manifold(tmp_path), tmp_path / "out" / "x.pt"
    command = "import sys; from neumeta_cli.cli import main; main()"
    both = [
        Program("-c", command, "export", manifold, "--width", width, "--overwrite", "-o", target)
        for width in ("0.5", "1")
    ]
    for process in both:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert load(target).conv1.out_channels in (8, 16)
    assert [p.name for p in target.parent.iterdir()] == ["x.pt"]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".onnx", ".pt2"])
def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch, suffix: str) -> None:
    """As on a read-only mount, which binds the superuser too."""

    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "mkstemp", read_only)
    with pytest.raises(NeumetaError, match=r"cannot write .*: Read-only file system"):
        export_network(tiny_manifold(), tmp_path / f"x{suffix}", 0.5)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind the superuser")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(NeumetaError, match="Permission denied"):
        export_network(tiny_manifold(), tmp_path / "x.pt", 0.5)
    tmp_path.chmod(0o700)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a b", "größe ½ 模型", "[x]*?", "n" * 200, "-o", "ü" * 100])
def test_any_file_name_will_do(tmp_path: Path, name: str) -> None:
    manifold = tiny_manifold()
    for suffix in (".pt", ".safetensors", ".pt2"):
        path = export_network(manifold, tmp_path / name / f"{name}{suffix}", 0.5).path
        assert path.stat().st_size > 0
    assert load(tmp_path / name / f"{name}.pt").conv1.out_channels == 8
    assert len(list((tmp_path / name).iterdir())) == 3


def test_only_partial_files_that_nobody_writes_are_taken_away(tmp_path: Path) -> None:
    target, old = tmp_path / "x.txt", time.time() - ABANDONED - 1
    names = {".x.1.partial.txt": old, ".x.2.partial.txt": time.time(), ".y.3.partial.txt": old}
    for name, when in names.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (when, when))
    write_text(target, "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".x.2.partial.txt",
        ".y.3.partial.txt",
        "x.txt",
    ]

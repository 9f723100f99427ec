"""Memory that is kept between tensors, and which arithmetic is the processor's own."""

import platform
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from programs import Program

from neumeta_cli import hardware

FAULTS = """
import resource, torch
from pathlib import Path
from neumeta_cli import hardware
hardware.HUGE_PAGES = Path("none")  # of which there are more or fewer, as memory is in pieces
if {keep}:
    hardware.keep_freed_memory()
x = torch.zeros(12 << 20)  # 48 MiB; glibc gives blocks above 32 MiB back, whatever came before
for step in range(20):
    if step == 5:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    made = torch.relu(x)
    del made
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_memory_is_kept_for_the_next_tensor() -> None:
    """The less of two runs: a system short of memory takes pages back in between."""
    faults: dict[bool, list[int]] = {False: [], True: []}
    for keep in (False, True) * 2:
        told, errors = Program("-c", FAULTS.format(keep=keep)).communicate()
        assert not errors
        faults[keep].append(int(told))
    assert min(faults[True]) < min(faults[False]) / 3


@pytest.mark.parametrize(
    ("told", "has"),
    [("always [madvise] never", True), ("[always] never", True), ("always madvise [never]", False)],
)
def test_large_blocks_are_kept_where_there_are_no_huge_pages(
    tmp_path: Path, monkeypatch, told: str, has: bool
) -> None:
    (tmp_path / "enabled").write_text(told + "\n")
    monkeypatch.setattr(hardware, "HUGE_PAGES", tmp_path / "enabled")
    monkeypatch.setattr(hardware, "os", SimpleNamespace(environ={}))
    asked: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda *what: asked.append(what) or 1)
    monkeypatch.setattr("ctypes.CDLL", lambda _: library)
    hardware.keep_freed_memory()
    assert dict(asked)[hardware.MMAP_THRESHOLD] == (32 << 20 if has else 1 << 30)
    assert bool(hardware.os.environ) == has


def test_other_c_libraries_are_left_alone(monkeypatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    hardware.keep_freed_memory()


def test_bfloat16_of_devices(monkeypatch) -> None:
    assert not hardware.computes_bfloat16("mps")
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: True)
    assert hardware.computes_bfloat16(torch.device("cuda", 0))
    for has in (True, False):
        known = {"avx512_bf16": has, "avx2": True}
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda known=known: known, raising=False)
        assert hardware.computes_bfloat16("cpu") == has
    monkeypatch.delattr("torch.cpu.get_capabilities")
    assert not hardware.computes_bfloat16("cpu")  # an older torch does not tell

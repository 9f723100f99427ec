"""Memory that is kept between tensors, and which arithmetic is the processor's own."""

import platform

import pytest
import torch
from programs import Program

from neumeta_cli import hardware

FAULTS = """
import resource, torch
from neumeta_cli.hardware import keep_freed_memory
if {keep}:
    keep_freed_memory()
x = torch.zeros({mib} << 18)
for step in range(20):
    if step == 5:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    made = torch.relu(x)
    del made
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
@pytest.mark.parametrize("mib", [28, 48])
def test_memory_is_kept_for_the_next_tensor(mib: int) -> None:
    """Or comes in huge pages, of which there are few.

    The less of two runs: a system short of memory takes pages back in between.
    """
    faults: dict[bool, list[int]] = {False: [], True: []}
    for keep in (False, True) * 2:
        told, errors = Program("-c", FAULTS.format(keep=keep, mib=mib)).communicate()
        assert not errors
        faults[keep].append(int(told))
    assert min(faults[True]) < min(faults[False]) / 3


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

"""What the machine offers: memory that is kept, arithmetic that is quick, other processes."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # numbers of mallopt's parameters, mallopt(3)
KEPT_BYTES = 1 << 30
KEPT_BEFORE = 32 << 20  # what glibc before 2.35 takes at most for the one threshold


def keep_freed_memory() -> None:
    """Let glibc keep blocks for the next tensor instead of giving them back.

    Blocks below 1 GiB, or below 32 MiB before glibc 2.35.

    Each activation of a step is a block of some MiB. Got from the system anew, its pages are
    cleared one by one as they are first touched, which takes several times as long as an activation
    function. Nothing changes with another C library.
    """
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    if mallopt(MMAP_THRESHOLD, KEPT_BYTES) or mallopt(MMAP_THRESHOLD, KEPT_BEFORE):
        mallopt(TRIM_THRESHOLD, KEPT_BYTES)


def computes_bfloat16(device: "torch.device | str") -> bool:
    """Whether matrix products in bfloat16 are the device's own, and not made of float32 ones."""
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if kind != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(bool(has) for name, has in capabilities.items() if "bf16" in name)


def describe_machine(device: str) -> dict[str, Any]:
    """What a time was measured on, as plain JSON types."""
    import platform

    import torch

    gpu = torch.cuda.get_device_name() if device.startswith("cuda") else None
    return {
        "device": gpu or platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def launched_processes() -> tuple[int, int]:
    """How many processes a launcher started, and which of them this is."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    return (count, int(os.environ.get("RANK", "0"))) if count > 1 else (1, 0)


def usable_cores() -> int:
    """Cores that this process may use: its share, if a launcher started several on this machine."""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    return max(1, allowed // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))

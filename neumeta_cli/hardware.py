"""What the machine offers: memory that is kept, arithmetic that is quick, other processes."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # numbers of mallopt's parameters, mallopt(3)
KEPT_BYTES = 1 << 30
FEWER_BYTES = 32 << 20  # also what glibc before 2.35 takes at most for the one threshold
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
CGROUP_FILES = {  # by controllers: limit, use, and what of it the kernel takes back
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def keep_freed_memory() -> None:
    """Let glibc keep blocks for the next tensor instead of giving them back.

    Each activation of a step is a block of some MiB. Got from the system anew, its pages are
    cleared one by one as they are first touched, which takes several times as long as an activation
    function. But blocks of other sizes leave holes that the next do not fit into. So those above
    32 MiB, which holes add up of, go back at once where torch can get them as huge pages, of which
    there are few to clear; elsewhere those above 1 GiB do (above 32 MiB before glibc 2.35). Nothing
    changes with another C library.
    """
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    most = KEPT_BYTES
    if _has_huge_pages():
        most = FEWER_BYTES
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch looks at its first tensor
    if mallopt(MMAP_THRESHOLD, most) or mallopt(MMAP_THRESHOLD, FEWER_BYTES):
        mallopt(TRIM_THRESHOLD, KEPT_BYTES)


def _has_huge_pages() -> bool:
    """Whether the system gives huge pages to those who ask."""
    try:
        return "[never]" not in HUGE_PAGES.read_text(encoding="ascii")
    except (OSError, ValueError):
        return False


def give_back_memory() -> None:
    """Let glibc give back all memory that is free, also between blocks in use."""
    import ctypes

    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    trim(0)


def resident_bytes() -> int | None:
    """Memory that this process has now, None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def available_bytes() -> int | None:
    """Memory that this process can still get from the system, None where it does not say.

    What the kernel calls available, or what is left below the limit of a control group (a
    container, a batch system), whichever is less.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    return min([free << 10, *_left_in_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])


def _left_in_groups(own: Path, root: Path) -> list[int]:
    """What each control group that limits the process's memory has left."""
    try:
        groups = [line.split(":", 2) for line in own.read_text("utf-8").splitlines()]
    except OSError:
        return []
    left = []
    for _, controllers, path in (group for group in groups if len(group) == 3):
        names = CGROUP_FILES.get(controllers)
        base = root / controllers
        folder = base / path.strip("/")
        while names is not None:
            try:
                limit, used = (int((folder / name).read_text("ascii")) for name in names[:2])
                stat = (folder / "memory.stat").read_text("ascii").splitlines()
                cached = sum(int(s.split()[1]) for s in stat if s.split()[0] == names[2])
                left.append(max(0, limit - used + cached))
            except (OSError, ValueError, IndexError):  # no limit ("max"), or of another system
                pass
            if folder == base or base not in folder.parents:
                break
            folder = folder.parent
    return left


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

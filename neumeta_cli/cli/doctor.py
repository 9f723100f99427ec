"""``neumeta doctor``."""

import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neumeta_cli import __version__
from neumeta_cli.cli.console import echo, write_json
from neumeta_cli.cli.options import Json
from neumeta_cli.hardware import computes_bfloat16
from neumeta_cli.runs import LATEST, RUNS

PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "numba", "safetensors", "typer")
FOR_OUR_OWN_WORK = ("dev", "bench")  # extras that no command needs
FLAGS = {  # of x86 and ARM processors, and what they are for
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_bf16": "bfloat16 (AVX-512)",
    "amx_bf16": "bfloat16 (AMX)",
    "amx_int8": "int8 (AMX)",
    "asimd": "NEON",
    "bf16": "bfloat16 (ARM)",
}
MISSING = "not installed"


def doctor(json: Json = None) -> None:
    """Show what matters for a bug report.

    Versions, what the processor computes quickly, GPU, optional packages and places.

    Example: neumeta doctor
    """
    document = examination()
    write_json(json, document)
    if json != "-":
        for title, entries in document.items():
            echo(title)
            for name, value in entries.items():
                shown = ", ".join(map(str, value)) if isinstance(value, list) else value
                echo(f"  {name}: {shown}")


def examination() -> dict[str, dict[str, Any]]:
    """What ``neumeta doctor`` tells, as plain JSON types."""
    return {
        "versions": {
            "neumeta": __version__,
            "Python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
        },
        "machine": _machine(),
        "torch": _torch(),
        "optional packages": _optional(),
        "places": {
            "program": sys.executable,
            "package": str(Path(__file__).parent.parent),
            "names of architectures": str(_cache()),
            "runs": str(RUNS.absolute()),
            "last run": str(LATEST.resolve()) if LATEST.exists() else "none here",
        },
    }


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # as long as the rest to open

    try:
        return version(package)
    except PackageNotFoundError:
        return MISSING


def _machine() -> dict[str, Any]:
    described = _processor()
    flags = re.split(r"\s+", described.get("flags", described.get("Features", "")))
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "system": platform.platform(),
        "processor": described.get("model name", platform.processor() or platform.machine()),
        "computes quickly": [name for flag, name in FLAGS.items() if flag in flags],
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory": f"{pages / 2**30:.1f} GiB",
    }


def _processor() -> Mapping[str, str]:
    """What Linux says of the first core; nothing elsewhere."""
    try:
        first = Path("/proc/cpuinfo").read_text("utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _torch() -> dict[str, Any]:
    """What torch finds here; a torch that cannot be imported is told, not raised."""
    try:
        import torch
    except Exception as error:
        return {"import": f"{type(error).__name__}: {error}"}
    found = torch.cuda.is_available()
    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return {
        "kernels for": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "oneDNN": "yes" if torch.backends.mkldnn.is_available() else "no",
        "bfloat16": "quick" if computes_bfloat16("cpu") else "slow, made of float32",
        "CUDA": torch.version.cuda or "built without it",
        "GPU": gpus if found and gpus else "none",
    }


def _optional() -> dict[str, str]:
    """Each package that an extra brings: its version, or what installs it."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        wanted = requires("neumeta") or []
    except PackageNotFoundError:  # run from a folder, not installed
        return {"neumeta": MISSING}
    found = {}
    for line in wanted:
        named = re.match(r"([\w.-]+).*extra == ['\"]([\w-]+)", line)
        if named and named[2] not in FOR_OUR_OWN_WORK:
            package, extra = named.groups()
            told = _version(package)
            found[package] = (
                f"{MISSING}; pip install 'neumeta[{extra}]'" if told == MISSING else told
            )
    return found


def _cache() -> Path | str:
    try:
        from neumeta_cli.checkpoint.known import cache_file
    except Exception as error:  # torch again
        return f"{type(error).__name__}: {error}"
    return cache_file() or "none, as there is no home folder"

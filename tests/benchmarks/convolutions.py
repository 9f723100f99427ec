"""Try the convolutions that a fit can make, each in a forked process, against float64.

A kernel of the library under torch may crash, never return, damage memory or be wrong for some
shapes on some processors. Here each shape gets a process of its own with a time limit: forward, and
the gradients of images and of weights, twice.

    python tests/benchmarks/convolutions.py --json convolutions.json
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python tests/benchmarks/convolutions.py
    python tests/benchmarks/convolutions.py --guarded          # as a fit runs them
    python tests/benchmarks/convolutions.py --known            # only the shapes known to fail
"""

import argparse
import functools
import itertools
import json
import math
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

sys.path.pop(0)  # this folder
sys.path.insert(0, str(Path(__file__).parent.parent))
from forked import Ending, Forked

LIMIT = 20.0  # seconds for a shape that takes milliseconds
NEAR = {"float32": 2e-5, "bfloat16": 4e-2}  # of the largest value
FEW, MORE = range(1, 18), (20, 24, 32, 48, 64)
MEMORY = {"plain": torch.contiguous_format, "channels last": torch.channels_last}


@dataclass(frozen=True)
class Case:
    """One convolution: its shape, and how it is computed."""

    inputs: int
    outputs: int
    groups: int
    kernel: int
    stride: int
    batch: int
    pixels: int
    layout: str
    precision: str


def all_cases() -> Iterator[Case]:
    """Every combination of a few channels, some larger, depthwise, in groups."""
    channels = (*FEW, *MORE)
    shapes = [(i, o, 1) for i, o in itertools.product(channels, channels)]
    shapes += [(c, c, c) for c in channels if c > 1]
    shapes += [(c, 2 * c, c) for c in (2, 3, 5, 8, 12, 17)]
    shapes += [
        (g * i, g * o, g) for g in (2, 3, 4) for i, o in itertools.product((1, 2, 3, 5), repeat=2)
    ]
    for (i, o, g), kernel, stride, batch, layout, precision in itertools.product(
        shapes, (1, 3, 5, 7), (1, 2), (1, 16), MEMORY, NEAR
    ):
        yield Case(i, o, g, kernel, stride, batch, 8, layout, precision)


def known_cases() -> Iterator[Case]:
    """Shapes whose gradient of the weights oneDNN 3.12 gets wrong with AVX2."""
    for inputs, outputs in itertools.product(range(2, 8), (4, 8, 16, 64)):
        yield Case(inputs, outputs, 1, 1, 2, 16, 8, "channels last", "float32")


def compute(case: Case, guarded: bool) -> dict[str, float]:
    """Relative errors of outputs and gradients, the larger of two tries."""
    generator = torch.Generator().manual_seed(0)
    kind, memory = getattr(torch, case.precision), MEMORY[case.layout]
    x = torch.randn(case.batch, case.inputs, case.pixels, case.pixels, generator=generator)
    weight = torch.randn(
        case.outputs, case.inputs // case.groups, case.kernel, case.kernel, generator=generator
    )
    values = [t.to(kind).contiguous(memory_format=memory) for t in (x, weight)]
    run = functools.partial(
        F.conv2d, stride=case.stride, padding=case.kernel // 2, groups=case.groups
    )
    above = torch.randn(run(*(v.double() for v in values)).shape, generator=generator).to(kind)
    above = above.contiguous(memory_format=memory)
    exact = outcome(run, [v.double() for v in values], above.double())
    taps, per_group = case.kernel**2, (case.inputs // case.groups, case.outputs // case.groups)
    terms = {  # products, each of the size of 1, that are added up in one number
        "forward": taps * per_group[0],
        "images": taps * per_group[1] / case.stride**2,
        "weights": above.numel() / case.outputs,
    }
    errors: dict[str, float] = {}
    for _ in range(2):
        with kernels(guarded):
            made = outcome(run, values, above)
        for name, one, two in zip(terms, made, exact, strict=True):
            usual = max(float(two.abs().max()), math.sqrt(terms[name]))
            error = float((one.double() - two).abs().max()) / usual
            errors[name] = max(errors.get(name, 0.0), error if error == error else float("inf"))
        del made
    return errors


def warm_up(guarded: bool) -> None:
    """Let forks find the libraries ready; on one thread, as threads do not live on in a fork."""
    torch.set_num_threads(1)
    for precision in NEAR:
        compute(Case(16, 16, 1, 3, 1, 1, 8, "plain", precision), guarded)


def outcome(run: Any, values: list[torch.Tensor], above: torch.Tensor) -> list[torch.Tensor]:
    leaves = [v.detach().clone().requires_grad_(True) for v in values]
    made = run(*leaves)
    return [made.detach(), *torch.autograd.grad(made, leaves, above)]


def kernels(guarded: bool) -> Any:
    """The way that fits go round bad kernels, if asked for."""
    if not guarded:
        return nullcontext()
    from neumeta_cli.kernels import SafeConvolutions

    return SafeConvolutions()


def verdict(case: Case, ending: Ending) -> str:
    """Empty if all is well, else what happened."""
    if ending.died:
        return ending.died
    wrong = [n for n, e in ending.value.items() if e > NEAR[case.precision]]
    return f"wrong: {', '.join(wrong)}" if wrong else ""


def try_all(cases: list[Case], guarded: bool, at_once: int) -> dict[Case, str]:
    """What went wrong, for each case that something did."""
    found: dict[Case, str] = {}
    worst: Counter[str] = Counter()
    waiting: list[tuple[Case, Forked]] = []
    started = said = time.monotonic()
    for number, case in enumerate([*cases, *[None] * at_once]):
        if case is not None:
            waiting.append((case, Forked(functools.partial(compute, case, guarded), LIMIT)))
        if len(waiting) < at_once and case is not None:
            continue
        if waiting:
            tried, process = waiting.pop(0)
            if told := verdict(tried, process.wait()):
                found[tried] = told
                worst[told] += 1
        if time.monotonic() - said > 20:
            said = time.monotonic()
            rate = number / (said - started)
            left = (len(cases) - number) / rate / 60
            print(
                f"{number}/{len(cases)}, {rate:.0f}/s, {left:.1f} min left; {dict(worst)}",
                file=sys.stderr,
            )
    return found


def processor() -> str:
    """The kernels that torch says it uses."""
    most = os.environ.get("ONEDNN_MAX_CPU_ISA", "what it finds")
    return f"{torch.backends.cpu.get_cpu_capability()}, oneDNN up to {most}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--known", action="store_true", help="only shapes known to fail")
    parser.add_argument("--guarded", action="store_true", help="as a fit runs them")
    parser.add_argument("--every", type=int, default=1, help="try one shape in so many")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=2, help="processes")
    options = parser.parse_args()
    warm_up(options.guarded)
    torch.set_num_threads(options.threads)
    cases = list(known_cases() if options.known else all_cases())[:: options.every]
    start = time.monotonic()
    found = try_all(cases, options.guarded, options.at_once)
    document = {
        "processor": processor(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "guarded": options.guarded,
        "threads": options.threads,
        "cases": len(cases),
        "seconds": round(time.monotonic() - start, 1),
        "failed": [{**asdict(case), "what": told} for case, told in found.items()],
    }
    groups: Counter[tuple[Any, ...]] = Counter()
    for case, told in found.items():
        groups[case.kernel, case.stride, case.layout, case.precision, told] += 1
    table = Table("kernel", "stride", "layout", "precision", "what", "shapes")
    for key, count in sorted(groups.items()):
        table.add_row(*map(str, key), str(count))
    Console(width=120).print(table)
    print(f"{len(found)} of {len(cases)} fail; {processor()}; torch {torch.__version__}")
    if options.json:
        options.json.write_text(json.dumps(document, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

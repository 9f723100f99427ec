"""Does anything crash, get lost, or come out silently wrong? Many cases of each sort, in one table.

Damaged files of every format; manifolds, recipes, families and run folders made to do harm; random
networks from their trace to files that others run; commands that are killed, meet a full disk, or
run twice in one folder. A case is refused in one line, or comes out right; whatever else it does is
counted: a traceback or an internal error, a wrong value, a half file, or too much time or memory.
Each case is a process of its own, forked from this one, with one thread.

    OMP_NUM_THREADS=1 python tests/benchmarks/robustness.py --json robustness.json
    OMP_NUM_THREADS=1 python tests/benchmarks/robustness.py --part networks --only 0-49
    python tests/benchmarks/robustness.py --page robustness.json  # or the files of several parts
"""

import argparse
import functools
import importlib
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: a fork has no threads
sys.path.pop(0)  # this folder, in which numba would find a "coverage"
sys.path.insert(0, str(Path(__file__).parent.parent))

from damage import damaged, no_search, nothing_runs, read_again, whole_files
from hostile import (
    families,
    manifolds,
    recipes,
    run_files,
    use_damaged_run,
    use_family,
    use_manifold,
    use_recipe,
)
from interrupted import (
    COMMANDS,
    EXPORTS,
    Command,
    Undisturbed,
    fault_in,
    killed,
    out_of_disk,
    twice,
    undisturbed,
)
from manifolds import saved_manifold
from network_checks import PLACE, check_network
from programs import IMPORTED, Program, fork_nursery
from rich.console import Console
from rich.table import Table
from tally import (
    COSTLY,
    KINDS,
    SECONDS,
    TRACEBACK,
    Outcome,
    Tally,
    commit,
    judged,
    record,
    rewrite,
    tried,
)

from neumeta_cli.export import export_network, load

PAGE = Path(__file__).parents[2] / "examples" / "results" / "robustness.md"
FIT_SECONDS, NETWORK_SECONDS = 60.0, 240.0  # of the processor
SHARES = (0.0, 0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.99)  # of the largest file that a disk holds
REGISTRY = "torch.onnx._internal.exporter._registration"  # of operators, which each export reads
DRY_RUN = ("fit", "--dry-run", "--device", "cpu", "-r")

Case = tuple[str, Callable[[], None]]


@dataclass(frozen=True)
class Counts:
    """How many cases of each sort."""

    files: int = 550  # of each of four formats; a fifth of it of each of two programs
    manifolds: int = 260
    recipes: int = 260
    families: int = 100
    runs: int = 25  # of each file of a run
    networks: int = 200
    kills: int = 20  # of each command
    disks: int = len(SHARES)
    twice: int = 5


QUICK = Counts(3, 3, 4, 2, 1, 1, 1, 1, 1)


class Bench:
    """Where cases are tried, and what they need.

    Args:
        folder: an empty one.
        counts: how many cases.
        only: the numbers of the cases to try, all if None.
        sort: of commands that are disturbed, only the rows that begin so.

    """

    def __init__(
        self, folder: Path, counts: Counts, only: range | None, quick: bool, sort: str = ""
    ) -> None:
        self.folder, self.counts, self.only, self.quick = folder, counts, only, quick
        self.sort = sort
        self.manifold = saved_manifold(folder)
        self._cases = 0

    def fresh(self) -> Path:
        """An empty folder."""
        self._cases += 1
        made = self.folder / f"case{self._cases}"
        made.mkdir()
        return made

    def tally(
        self, what: str, cases: Iterator[Case], seconds: float = SECONDS, *, sound: bool = False
    ) -> Tally:
        """Try cases, each in a fork of this process."""
        each = ((name, partial(tried, work, seconds)) for name, work in cases)
        return self.outcomes(what, each, sound=sound)

    def outcomes(
        self, what: str, cases: Iterator[tuple[str, Callable[[], Outcome]]], *, sound: bool = False
    ) -> Tally:
        """Count what becomes of cases, and tell it; of sound ones also why they are refused."""
        tally = Tally(what)
        with tally.timed():
            for number, (name, case) in enumerate(cases):
                if self.only is None or number in self.only:
                    before, outcome = len(tally.faults), case()
                    tally.add(f"{number}: {name}", outcome)
                    if sound and outcome.refused:
                        tally.notes.append(f"{number}: {name} is refused: {outcome.refused}")
                        print(f"  {tally.notes[-1]}", flush=True)
                    for kind, what_case, said in tally.faults[before:]:
                        print(f"  {kind}: {what_case}: {said}", flush=True)
        return tell(tally)


def tell(tally: Tally) -> Tally:
    """A line of progress."""
    print(
        f"{tally.what}: {tally.cases} cases, {tally.refused} refused, {len(tally.faults)} faults, "
        f"{tally.seconds:.0f} s",
        flush=True,
    )
    return tally


def files(bench: Bench) -> Iterator[Tally]:
    """Flipped bits and cuts."""
    whole = whole_files(bench.fresh())
    manifold, place = load(whole["manifold"]), bench.fresh()
    for ending in (".onnx", ".pt2") if not bench.quick else ():
        whole[ending] = export_network(manifold, place / f"x{ending}", 0.25).path

    def use(path: Path, source: Path, which: str) -> None:
        with nothing_runs(), no_search():
            read_again(path, source, which)

    def cases(which: str, source: Path, count: int) -> Iterator[Case]:
        rng, content = random.Random(which), source.read_bytes()
        use(source, source, which)  # else each damaged one might be refused for another reason
        for number in range(count):
            path = bench.fresh() / source.name
            path.write_bytes(damaged(content, rng))
            yield f"{which} {number}", partial(use, path, source, which)

    for which, source in whole.items():
        count = bench.counts.files // (5 if which.startswith(".") else 1)
        name = which if which.startswith(".") else f"{which} ({source.suffix})"
        yield bench.tally(f"flipped bits and cuts, {name}", cases(which, source, count))


def hostile(bench: Bench) -> Iterator[Tally]:
    """What someone could hand on."""

    def use(make: Callable[[Path], Path], then: Callable[[Path], object], folder: Path) -> None:
        with nothing_runs():
            then(make(folder))

    made = manifolds(bench.manifold, bench.counts.manifolds)
    cases = ((name, partial(use, make, use_manifold, bench.fresh())) for name, make in made)
    yield bench.tally("manifolds that say otherwise", cases)
    texts = list(recipes(bench.counts.recipes))
    cases = ((name, partial(use, make, use_recipe, bench.fresh())) for name, make in texts)
    yield bench.tally("recipes: bombs, damage, strange values", cases)
    if not bench.quick:
        begun_fits = ((name, partial(dry_run, make(bench.fresh()))) for name, make in texts)
        yield bench.outcomes("the same recipes, a fit of each begun", begun_fits)
    places = ((False, False), (True, False), (False, True))  # linked, shared
    indexes = [(*case, *place) for place in places for case in families()]
    cases = (
        (name, partial(use_family, bench.manifold, index, bench.fresh(), linked, shared))
        for name, index, linked, shared in indexes[: bench.counts.families]
    )
    yield bench.tally("families with a strange index", cases)
    if not bench.quick:
        yield bench.tally("reports of damaged runs", damaged_runs(bench))


def dry_run(recipe: Path) -> Outcome:
    """Begin a fit of a recipe, as a command, and leave it after some steps."""
    program = Program("-c", BOUNDED, *DRY_RUN, recipe, cwd=recipe.parent)
    _, errors = program.communicate()
    last = errors.strip().splitlines()[-1:]
    if program.returncode == -24:
        return Outcome(fault=COSTLY, said=f"after {FIT_SECONDS:.0f} s: {last}")
    fault = fault_in(program.returncode, errors)
    if fault is not None:
        return Outcome(fault=TRACEBACK, said=fault)
    return Outcome(refused=last[0] if program.returncode else None)


BOUNDED = f"""
import resource
from neumeta_cli.cli import main
for kind, most in ((resource.RLIMIT_CPU, {FIT_SECONDS:.0f}), (resource.RLIMIT_AS, 16 << 30)):
    resource.setrlimit(kind, (most, most + (kind == resource.RLIMIT_CPU)))
main()
"""


def damaged_runs(bench: Bench) -> Iterator[Case]:
    fit = undisturbed(COMMANDS["fit"], bench.manifold, bench.folder / "run of a fit")
    assert fit.seconds
    run = bench.folder / "run of a fit" / "run"
    for which in run_files(run):
        rng, content = random.Random(which.name), which.read_bytes()
        for number in range(bench.counts.runs):
            broken = b"[" * 100_000 if number == 0 else damaged(content, rng)
            work = partial(use_damaged_run, run, bench.fresh(), which, broken)
            yield f"{which.name} {number}", work


def networks(bench: Bench) -> Iterator[Tally]:
    """Random networks."""
    endings = () if bench.quick else (".onnx",)
    if not bench.quick:  # so that forks find imported, read and compiled what they need
        registry = importlib.import_module(REGISTRY).ONNXRegistry
        registry.from_torchlib = staticmethod(functools.cache(registry.from_torchlib))
        warm = judged(partial(check_network, bench.counts.networks, bench.fresh(), endings))
        if warm != Outcome():  # then each might be refused for another reason
            raise SystemExit(f"the network to warm up with is no good: {warm}")
    cases = (
        (f"{PLACE}({seed})", partial(check_network, seed, bench.fresh(), endings))
        for seed in range(bench.counts.networks)
    )
    what = f"random networks: trace, fit, .pt, .safetensors{', .onnx' if endings else ''}"
    yield bench.tally(what, cases, NETWORK_SECONDS, sound=True)


def chosen(bench: Bench) -> list[list[Command]]:
    """The commands that are disturbed; those of a list take turns."""
    every = [EXPORTS] + [[command] for command in COMMANDS.values()]
    return [[EXPORTS[0]]] if bench.quick else every


def disturbed(bench: Bench) -> Iterator[Tally]:
    """Killed, on a full disk, twice at once."""
    for commands in chosen(bench):
        name, rng = commands[0].name.split()[0], random.Random(commands[0].name)
        if not bench.sort.startswith(name) and not name.startswith(bench.sort):
            continue
        given = [undisturbed(c, bench.manifold, bench.folder / c.name) for c in commands]

        def cases(
            case: Callable[[Undisturbed, Path], Outcome], count: int, given: Sequence = given
        ) -> Iterator[tuple[str, Callable[[], Outcome]]]:
            for number in range(count):
                whole = given[number % len(given)]
                yield whole.command.name, partial(case, whole, bench.fresh() / "here")

        place, counts = bench.manifold, bench.counts
        kill = partial(killed, place, rng)
        shares = iter(SHARES * len(given))
        many = counts.disks * (1 if bench.quick else len(given))
        disk = partial(out_of_disk, place, shares)
        double = partial(twice, place, rng)
        sorts = {
            f"{name}, killed at a random moment": cases(kill, counts.kills),
            f"{name}, disk full": cases(disk, many),
            f"{name}, twice in one folder": cases(double, counts.twice),
        }
        for what, own in sorts.items():
            if what.startswith(bench.sort):
                yield bench.outcomes(what, own)


PARTS = {"files": files, "hostile": hostile, "networks": networks, "disturbed": disturbed}


def span(text: str) -> range:
    """Of cases: ``17``, or ``50-99``."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one")
    parser.add_argument(
        "--only", type=span, metavar="N[-M]", help="only these cases of each sort, from 0 on"
    )
    parser.add_argument("--sort", default="", help="of disturbed: rows that begin so, 'fit, disk'")
    parser.add_argument("--quick", action="store_true", help="a few cases of each sort")
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--page",
        type=Path,
        nargs="+",
        metavar="JSON",
        help=f"try nothing: write what these files say into {PAGE.name}, as one table",
    )
    options = parser.parse_args()
    if options.page:
        rewrite(PAGE, [json.loads(path.read_text("utf-8")) for path in options.page])
        return
    counted_at = commit()
    for module in IMPORTED:
        importlib.import_module(module)
    fork_nursery()
    counts = QUICK if options.quick else Counts()
    tallies: list[Tally] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), counts, options.only, options.quick, options.sort)
        for part in options.part or PARTS:
            for tally in PARTS[part](bench):
                tallies.append(tally)
                if options.json:  # after each sort, as all take hours
                    told = record(tallies, counted_at)
                    options.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    table = Table("what was tried", "cases", "refused", *KINDS, "seconds")
    for tally in tallies:
        numbers = (tally.cases, tally.refused, *(tally.count(kind) for kind in KINDS))
        table.add_row(tally.what, *(f"{n:,}" for n in numbers), f"{tally.seconds:.0f}")
    Console(width=120).print(table)
    print(counted_at)
    sys.exit(any(tally.faults for tally in tallies))


if __name__ == "__main__":
    main()

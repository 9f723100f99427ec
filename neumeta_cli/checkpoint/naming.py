"""Which names in a file are those of a network, whatever wrappers have put around them."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

IGNORED = "num_batches_tracked"  # a counter that many files leave out and inference never reads
WRAPPED = frozenset(  # modules that torch puts between a network and its parts, in any place
    [
        *("_orig_mod", "_checkpoint_wrapped_module", "_forward_module"),
        *("_fsdp_wrapped_module", "_fpw_module"),
    ]
)
PARALLEL = WRAPPED | {"module"}  # DataParallel and its kind, and also a usual name of a layer
# What training, profilers and constructors leave beside the layers, whatever it belongs to.
BESIDE = re.compile(
    r"(^|[._])(criterion|loss|loss_fn|losses|metrics?|accuracy|acc|total_ops|total_params|extra_state|"
    r"relative_position_index|attn_mask|position_ids)([._]|$)"
)
AVERAGED = re.compile(r"(^|[^a-z])(ema|swa|averaged?|shadow)([^a-z]|$)")
FEW = 0.2  # of a file's names: prefixes of fewer are not tried where the network is not known


@dataclass(frozen=True)
class Reading:
    """How the names in a file are read for one network.

    Attributes:
        names: the network's name to the file's; also names in the network's own modules that it
            does not have, which no prefix explains.
        left_out: names in the file that lie outside the network, such as those of its loss.
        taken: the prefix under which the network lies, without its dot; empty for none.
        copies: other prefixes under which the file has the whole network as well.
        rivals: prefixes of which none can be preferred; one of them has to be chosen.

    """

    names: dict[str, str]
    left_out: tuple[str, ...] = ()
    taken: str = ""
    copies: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()


def is_averaged(key: str) -> bool:
    """Whether a key names averaged weights, such as ``model_ema`` or ``swa_model``."""
    return bool(AVERAGED.search(key.lower()))


def read_names(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Reading:
    """Match the names in a file with those that a network wants.

    Wrappers in the middle of names are looked through. The prefix is the one under which most of
    the network's names lie, the shortest of these; one that the file lacks is put before its names.

    Args:
        tensors: by their names in the file.
        wanted: the network's own state dict.

    """
    readings = [_read(tensors, wanted, looked_through) for looked_through in (WRAPPED, PARALLEL)]
    return max(readings, key=lambda reading: len(reading.names.keys() & wanted.keys()))


def guesses(names: Iterable[str]) -> list[dict[str, str]]:
    """Names as some network could have them, to names in the file; the likeliest first."""
    bare = {_bare(name, WRAPPED): name for name in names}
    counts = Counter(prefix for name in bare for prefix, _ in _splits(name))
    prefixes = sorted((p for p, n in counts.items() if n >= FEW * len(bare)), key=len)
    found = []
    for prefix in prefixes:  # the empty one first
        under = {n.removeprefix(prefix): name for n, name in bare.items() if n.startswith(prefix)}
        found += [under, {n: name for n, name in under.items() if not BESIDE.search(n)}]
    return found


def _read(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], looked_through: frozenset[str]
) -> Reading:
    bare = {name: _bare(name, looked_through) for name in tensors}
    places = {_bare(name, looked_through): name for name in wanted}
    if len(places) < len(wanted):  # the network itself has both
        places = {name: name for name in wanted}
    needed = sum(not name.endswith(IGNORED) for name in places)
    found: tuple[int, list[str]] = (-1, [])
    shared = ""
    for inner in _shared_prefixes(places):  # from none on
        likes = {name.removeprefix(inner): wanted[own] for name, own in places.items()}
        hits, prefixes = _best_prefixes(tensors, bare, likes)
        if hits > found[0]:
            found, shared = (hits, prefixes), inner
        if hits >= needed:
            break
    hits, prefixes = found
    within = {name.removeprefix(shared): own for name, own in places.items()}
    if hits < needed:  # it does not fit; names are cut only where that explains most of them
        prefixes = prefixes[:1] if 2 * hits > needed else [""]
    return _reading(tensors, bare, within, prefixes or [""])


def _reading(
    tensors: Mapping[str, Tensor],
    bare: Mapping[str, str],
    places: Mapping[str, str],
    prefixes: list[str],
) -> Reading:
    """Read the names under the one of several equally good prefixes that is to be preferred."""
    plain = [p for p in prefixes if not is_averaged(p)] or prefixes
    prefix = plain[0]
    region = prefix + _shared_prefixes(places)[-1]
    names: dict[str, str] = {}
    left_out = []
    for name, seen in bare.items():
        owner = max((p for p in prefixes if seen.startswith(p)), key=len, default="")
        rest = seen.removeprefix(owner)
        if rest in places and owner in prefixes:
            if owner == prefix and places[rest] not in names:
                names[places[rest]] = name
            continue
        if seen.startswith(region) and not _is_beside(seen.removeprefix(prefix), tensors[name]):
            names[seen.removeprefix(prefix)] = name
        elif not name.endswith(IGNORED):
            left_out.append(name)
    keys = [p.rstrip(".") for p in prefixes if p != prefix]
    rivals = [p.rstrip(".") for p in plain] if prefix and len(plain) > 1 else []
    return Reading(names, tuple(left_out), prefix.rstrip("."), tuple(keys), tuple(rivals))


def _is_beside(name: str, tensor: Tensor) -> bool:
    """Whether a name that the network lacks is no part of a network: a counter, or of a loss."""
    counter = tensor.dim() == 0 and not tensor.is_floating_point()
    return counter or bool(BESIDE.search(name)) or is_averaged(name.partition(".")[0])


def _best_prefixes(
    tensors: Mapping[str, Tensor], bare: Mapping[str, str], places: Mapping[str, Tensor]
) -> tuple[int, list[str]]:
    """How many of a network's names the best prefixes explain, and these, the shortest first."""
    hits: Counter[str] = Counter()
    shaped: Counter[str] = Counter()
    for name, seen in bare.items():
        for prefix, rest in _splits(seen):
            if rest in places and not rest.endswith(IGNORED):
                hits[prefix] += 1
                shaped[prefix] += places[rest].shape == tensors[name].shape
    if not hits:
        return 0, []
    best = max((hits[p], shaped[p]) for p in hits)
    equal = [p for p in hits if (hits[p], shaped[p]) == best]
    return best[0], sorted(equal, key=len)


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Every way to take a name apart into a prefix with its dot, or none, and the rest."""
    yield "", name
    for place, letter in enumerate(name):
        if letter == ".":
            yield name[: place + 1], name[place + 1 :]


def _shared_prefixes(names: Iterable[str]) -> list[str]:
    """The prefixes that all names have, from none to the longest."""
    every = list(names)
    if not every:
        return [""]
    return [p for p, _ in _splits(every[0]) if all(name.startswith(p) for name in every)]


def _bare(name: str, looked_through: frozenset[str]) -> str:
    return ".".join(part for part in name.split(".") if part not in looked_through)

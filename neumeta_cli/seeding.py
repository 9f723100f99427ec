"""Random numbers of a seed, without a trace in the generator that all code shares."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let torch's global generators begin at ``seed`` within, and go on after as if untouched."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield

"""How long a network takes on this machine."""

import logging

import torch
from torch import nn

BATCHES = (1, 64)
SECONDS = 0.5  # of timing, at least, after a warm-up


@torch.no_grad()
def measure_latency(
    model: nn.Module, input_size: tuple[int, ...], batch: int, seconds: float = SECONDS
) -> float:
    """Median seconds of a warm forward pass, with as many threads as torch has.

    Args:
        model: in evaluation mode.
        input_size: (C, H, W).
        batch: images at once.
        seconds: how long to measure.

    """
    # Its import complains of a missing GPU on stderr where CUDA is installed without one.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils.benchmark import Timer

    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    x = torch.randn(batch, *input_size, device=device)
    timer = Timer("model(x)", globals={"model": model, "x": x}, num_threads=torch.get_num_threads())
    timer.timeit(2)
    return float(timer.blocked_autorange(min_run_time=seconds).median)

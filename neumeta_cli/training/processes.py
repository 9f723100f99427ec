"""Several processes of ``accelerate launch`` that train as one process would.

Every process draws the same order of images (in a fit the same widths and noise, too) and takes its
own part of each batch; gradients and the statistics of batch norms are those of the whole batch.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from neumeta_cli.errors import NeumetaError
from neumeta_cli.hardware import launched_processes


class Processes:
    """The processes of this launch, or this one alone.

    Args:
        launched: how many there are and which this is, as the launcher says if None.

    Attributes:
        count: how many there are.
        rank: of this one.

    """

    def __init__(self, launched: tuple[int, int] | None = None) -> None:
        self.count, self.rank = launched or launched_processes()

    @property
    def main(self) -> bool:
        """Whether this is the one that writes files and speaks."""
        return self.rank == 0

    def open(self, device: torch.device) -> torch.device:
        """Meet the others; tells where this one is to compute.

        Raises:
            NeumetaError: accelerate is not installed.

        """
        if self.count == 1:
            return device
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise NeumetaError(
                "several processes need accelerate: pip install 'neumeta[distributed]'"
            ) from error
        try:
            accelerator = Accelerator(cpu=device.type == "cpu")
        except (ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise NeumetaError(
                f"the {self.count} processes do not find each other ({reason}); "
                "begin them with accelerate launch"
            ) from error
        if (accelerator.num_processes, accelerator.process_index) != (self.count, self.rank):
            raise NeumetaError(
                f"this is process {self.rank} of {self.count} by its environment, but "
                f"{accelerator.process_index} of {accelerator.num_processes} for accelerate; "
                "begin them with accelerate launch"
            )
        if device.type == "cpu":  # accelerate's has a number, which saved states do not know
            return device
        return torch.device(accelerator.device)

    def check_same(self, tensors: Iterable[Tensor], device: torch.device) -> None:
        """Make sure that every process begins with the same numbers.

        Raises:
            NeumetaError: in all of them, if one differs.

        """
        if self.count == 1:
            return
        sums = torch.stack([t.detach().double().sum().cpu() for t in tensors]).to(device)
        same = torch.allclose(self._mean(sums), sums, rtol=1e-9, atol=0)
        if self.any(not same, device):
            raise NeumetaError(
                "the processes begin with different weights or at different steps; they need the "
                "same files, the same folder of the run, and no permute.time_limit"
            )

    def share_first(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the numbers of the first, in place."""
        if self.count == 1:
            return
        from accelerate.utils import broadcast

        for tensor in tensors:
            tensor.data.copy_(broadcast(tensor.data))

    def part(self, count: int) -> slice:
        """Which of ``count`` images of a batch are this process's.

        Raises:
            NeumetaError: there are fewer images than processes.

        """
        if count < self.count:
            raise NeumetaError(
                f"a batch of {count:,} images is too small for {self.count} processes; "
                "raise batch_size or launch fewer"
            )
        return slice(self.rank, None, self.count)

    def share(self, count: int) -> float:
        """What a mean over this process's part counts in the mean of all processes' losses."""
        own = len(range(*self.part(count).indices(count)))
        return own * self.count / count

    def average_gradients(self, parameters: Iterable[Tensor], values: dict[str, float]) -> None:
        """Make gradients and numbers the mean over processes, in place."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:  # nor does any other process have some
            return
        numbers = torch.tensor(list(values.values()), device=gradients[0].device)
        flat = self._mean(torch.cat([*(g.flatten() for g in gradients), numbers]))
        *pieces, numbers = flat.split([*(g.numel() for g in gradients), len(numbers)])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))
        values.update(zip(values, numbers.tolist(), strict=True))

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set in any process."""
        if self.count == 1:
            return flag
        return bool(self._mean(torch.tensor([float(flag)], device=device)).item())

    def _mean(self, values: Tensor) -> Tensor:
        from accelerate.utils import reduce

        try:
            mean: Tensor = reduce(values, "mean")
        except RuntimeError as error:
            raise NeumetaError("another process of this run ended; see what it says") from error
        return mean

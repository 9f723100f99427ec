"""A structure that is run with one set of weights after another."""

import gc
import weakref

import torch
from torch import Tensor, nn

from neumeta_cli.distill.stateless import run_with


class Keeping(nn.Module):
    """Keeps a table that it makes of its weight in evaluation mode, as TinyViT's attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.bias, self.kept = nn.Parameter(torch.zeros(3)), {}

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return x + self.bias[[2, 0, 1]]
        if str(x.device) not in self.kept:
            self.kept[str(x.device)] = self.bias[[2, 0, 1]]
        return x + self.kept[str(x.device)]


def test_tables_of_other_weights_are_forgotten() -> None:
    network, x = nn.Sequential(Keeping(), nn.Tanh()).eval(), torch.randn(2, 3)
    network(x)  # with a table of its own weights
    for _ in range(2):
        bias = torch.randn(3, requires_grad=True)
        found = run_with(network, {"0.bias": bias}, (x,))
        torch.testing.assert_close(found, (x + bias[[2, 0, 1]]).tanh())
        found.sum().backward()
        assert bias.grad is not None
        assert bool(bias.grad.all())
    torch.testing.assert_close(network(x), x.tanh())


class Having(nn.Module):
    """Has tensors and settings in dictionaries from the first."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.settings = nn.Linear(3, 3), {"scale": 2.0}
        self.tables = {"shift": torch.ones(3)}

    def forward(self, x: Tensor) -> Tensor:
        return self.settings["scale"] * self.layer(x) + self.tables["shift"]


def test_what_a_module_has_from_the_first_stays_and_nothing_is_kept_alive() -> None:
    network, x = Having().eval(), torch.randn(2, 3)
    for _ in range(2):
        weights = {name: torch.randn_like(t) for name, t in network.state_dict().items()}
        wanted = 2 * (x @ weights["layer.weight"].T + weights["layer.bias"]) + 1
        torch.testing.assert_close(run_with(network, weights, (x,)), wanted)
    gone = weakref.ref(network)
    del network
    gc.collect()
    assert gone() is None

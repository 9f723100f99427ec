"""A network that changes its width in place."""

import threading

import pytest
import torch
from test_manifold import FACTORISED, SELECTED, manifold_of

from neumeta_cli.errors import NeumetaError
from neumeta_cli.manifold import Manifold

WIDTHS = (1.0, 0.37, 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("fold", [True, False])
def test_a_live_network_computes_what_a_sampled_one_does(build, fold: bool) -> None:
    """Bit for bit, at every width, back and forth; norm statistics included."""
    manifold = manifold_of(build, inr=SELECTED, fold=fold)
    manifold.calibration.keep(torch.randn(16, 3, 32, 32))
    x = torch.randn(4, 3, 32, 32)
    wanted = {width: manifold.sample(width)(x) for width in WIDTHS}
    net = manifold.live()
    assert not net.training
    for width in (*WIDTHS, *WIDTHS):
        assert torch.equal(net.morph(width)(x), wanted[width])
    one_clique = manifold.frame.full | {"layer3.2.conv1": 5}
    widths = {name: n / manifold.frame.full[name] for name, n in one_clique.items()}
    assert torch.equal(net.morph(widths)(x), manifold.sample(sizes=one_clique)(x))


def test_going_back_to_a_width_samples_nothing(build, monkeypatch) -> None:
    """Nor builds a network or generates a weight: what was prepared is used again."""
    manifold = manifold_of(build, inr=FACTORISED)
    net = manifold.live().prepare(WIDTHS)
    kept = {width: net.morph(width).network for width in WIDTHS}
    assert len({id(network) for network in kept.values()}) == len(WIDTHS)
    for work in ("sample", "generate", "skeleton"):
        monkeypatch.setattr(Manifold, work, None)
    monkeypatch.setattr(net, "_sample", None)
    for width in (0.37, 1.0) * 10:
        assert net.morph(width).network is kept[width]


def test_only_so_many_networks_are_kept(build) -> None:
    manifold = manifold_of(build, "lenet")
    net = manifold.live(1.0, cached=2)
    first = net.network
    for width in (0.5, 0.25, 0.75):
        net.morph(width)
    assert len(net._kept) == 2
    assert net.morph(1.0).network is not first
    net.prepare([0.1, 0.2, 0.3])  # which drops the one in use from what is kept
    assert net(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    with pytest.raises(NeumetaError, match="keeps one network at least"):
        manifold.live(cached=0)
    with pytest.raises(NeumetaError, match="not a positive number"):
        net.morph(-1.0)
    assert net.width == 1.0


def test_what_is_moved_or_cast_stays_so_at_other_widths(build) -> None:
    net = manifold_of(build, "lenet").live().prepare([0.5]).to(torch.float64)
    x = torch.randn(2, 1, 28, 28, dtype=torch.float64)
    for width in (0.5, 0.25, 1.0):  # kept, sampled now, in use at the time
        assert net.morph(width)(x).dtype == torch.float64
    assert all(parameter.device.type == "meta" for parameter in net.to("meta").parameters())


@pytest.mark.slow
def test_threads_see_one_width_or_another_never_a_mixture(build) -> None:
    manifold = manifold_of(build, inr=SELECTED)
    net = manifold.live()
    x = torch.randn(2, 3, 32, 32)
    right = [manifold.sample(width)(x) for width in WIDTHS]
    stop, wrong, passes = threading.Event(), [], []

    def serve() -> None:
        while not stop.is_set():
            y = net(x)
            passes.append(1)
            if not any(torch.equal(y, known) for known in right):
                wrong.append(y)

    servers = [threading.Thread(target=serve) for _ in range(3)]
    for thread in servers:
        thread.start()
    while len(passes) < 100:
        for width in WIDTHS:
            net.morph(width)
    stop.set()
    for thread in servers:
        thread.join()
    assert passes
    assert not wrong

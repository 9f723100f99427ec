"""All weights of a selected INR at once are those that are made one by one."""

import copy
import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neumeta_cli.checkpoint import resolve
from neumeta_cli.manifold import (
    KINDS,
    Inr,
    InrSettings,
    Manifold,
    Noise,
    RepeatedDraws,
    build_manifold,
    inr_settings,
)
from neumeta_cli.manifold.settings import NoiseSection


def begun(inr: InrSettings) -> Manifold:
    arch = resolve("cifar_resnet20")
    model, noise = arch.build("cpu").eval(), NoiseSection(samples=1)
    return build_manifold(model, arch, arch.default_input_size(), "all", False, inr, noise)[0]


@functools.cache
def randomised() -> Manifold:
    made = begun(inr_settings("selected"))
    generator = torch.Generator().manual_seed(0)
    for parameter in made.inr.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return made.requires_grad_(True)


@pytest.fixture
def manifold() -> Manifold:
    return copy.deepcopy(randomised())


def made_and_gradients(draws: Manifold | RepeatedDraws, sizes, trained=None, noise=None):
    made = draws.generate(sizes, noise, trained)
    generator = torch.Generator().manual_seed(1)
    loss = sum((w * torch.randn(w.shape, generator=generator)).sum() for w in made.values())
    manifold = draws.manifold if isinstance(draws, RepeatedDraws) else draws
    parameters = dict(manifold.inr.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return made, dict(zip(parameters, found, strict=True))


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_weights_and_gradients_are_the_same(data) -> None:
    """At widths of each clique's own, so that some keep more channels than a change has."""
    manifold = randomised()
    full = manifold.frame.full
    sizes = {name: data.draw(st.integers(1, size)) for name, size in full.items()}
    names = [spec.name for spec in manifold.specs]
    trained = data.draw(st.none() | st.sets(st.sampled_from(names), min_size=1))
    if all(sizes[name] == full[name] for name in full):
        return  # no change has a share in the checkpoint itself
    none = Noise(0.0, 0.0, torch.Generator())  # all changes are added up, then channels are taken
    wanted, gradients = made_and_gradients(manifold, sizes, trained, none)
    for draws in (manifold, RepeatedDraws(manifold)):
        made, own = made_and_gradients(draws, sizes, trained)
        assert list(made) == list(wanted)
        for name, weight in wanted.items():
            assert torch.equal(made[name], weight)
        for name, gradient in gradients.items():
            if gradient is None:  # Adam leaves what has none alone
                assert own[name] is None
            else:
                torch.testing.assert_close(own[name], gradient)


def test_plans_are_for_small_networks_without_noise(manifold, monkeypatch) -> None:
    one_by_one = []
    forward = Inr.forward

    def watched(inr, targets, noise):
        one_by_one.append(len(targets))
        return forward(inr, targets, noise)

    monkeypatch.setattr(Inr, "forward", watched)
    draws, half = RepeatedDraws(manifold), manifold.frame.sizes(0.4)
    none = Noise(0.0, 0.0, torch.Generator())
    draws.generate(half, none)
    draws.generate(half, none)
    assert not one_by_one
    draws.generate(manifold.frame.sizes(1.2))  # channels between two of the checkpoint's
    assert len(one_by_one) == 1
    draws.generate(half, Noise(0.1, 0.0, torch.Generator()))
    assert len(one_by_one) == 2
    manifold.generate(half)
    assert len(one_by_one) == 3
    monkeypatch.setattr("neumeta_cli.manifold.inr.selected.MOST_WEIGHTS", 1000)
    RepeatedDraws(manifold).generate(half)
    assert len(one_by_one) == 4


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "selected"])
def test_kinds_without_plans_are_drawn_as_ever(kind: str) -> None:
    manifold = begun(inr_settings(kind))
    sizes = manifold.frame.sizes(0.4)
    made, wanted = RepeatedDraws(manifold).generate(sizes), manifold.generate(sizes)
    assert all(torch.equal(weight, wanted[name]) for name, weight in made.items())


def test_plans_know_what_an_optimiser_has_changed(manifold) -> None:
    draws, sizes = RepeatedDraws(manifold), manifold.frame.sizes(0.4)
    before = draws.generate(sizes)
    with torch.no_grad():
        for parameter in manifold.inr.parameters():
            parameter.add_(1.0)
    after = draws.generate(sizes)
    wanted = manifold.generate(sizes)
    assert all(torch.equal(weight, wanted[name]) for name, weight in after.items())
    assert not torch.equal(after["conv1.weight"], before["conv1.weight"])

"""All weights of a selected INR at once are those that are made one by one."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neumeta_cli.checkpoint import resolve
from neumeta_cli.manifold import Manifold, build_manifold
from neumeta_cli.manifold.field import Field
from neumeta_cli.manifold.settings import NoiseSection
from neumeta_cli.sections import InrSection


@pytest.fixture(scope="module")
def manifold() -> Manifold:
    arch = resolve("cifar_resnet20")
    model = arch.build("cpu").eval()
    size = arch.default_input_size()
    inr, noise = InrSection(kind="selected"), NoiseSection(samples=1)
    made, _ = build_manifold(model, arch, size, "all", False, inr, noise)
    generator = torch.Generator().manual_seed(0)
    for parameter in made.field.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return made.requires_grad_(True)


def made_and_gradients(manifold: Manifold, sizes, trained=None):
    made = manifold.generate(sizes, None, trained)
    generator = torch.Generator().manual_seed(1)
    loss = sum((w * torch.randn(w.shape, generator=generator)).sum() for w in made.values())
    parameters = dict(manifold.field.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return made, dict(zip(parameters, found, strict=True))


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_weights_and_gradients_are_the_same(manifold: Manifold, data) -> None:
    """At widths of each clique's own, so that some keep more channels than a change has."""
    full = manifold.frame.full
    sizes = {name: data.draw(st.integers(1, size)) for name, size in full.items()}
    names = [spec.name for spec in manifold.specs]
    trained = data.draw(st.none() | st.sets(st.sampled_from(names), min_size=1))
    if all(sizes[name] == full[name] for name in full):
        return  # no change has a share in the checkpoint itself
    manifold.field.eval()
    wanted, gradients = made_and_gradients(manifold, sizes, trained)
    manifold.field.train()
    made, own = made_and_gradients(manifold, sizes, trained)
    assert list(made) == list(wanted)
    for name, weight in wanted.items():
        assert torch.equal(made[name], weight)
    for name, gradient in gradients.items():
        if gradient is None:  # Adam leaves what has none alone
            assert own[name] is None
        else:
            torch.testing.assert_close(own[name], gradient)


def test_plans_are_for_fits_of_small_networks_without_noise(manifold, monkeypatch) -> None:
    one_by_one = []
    forward = Field.forward

    def watched(field, targets, noise):
        one_by_one.append(len(targets))
        return forward(field, targets, noise)

    monkeypatch.setattr(Field, "forward", watched)
    manifold.field.train()
    manifold.generate(manifold.frame.sizes(0.4))
    assert not one_by_one
    manifold.generate(manifold.frame.sizes(1.2))  # channels between two of the checkpoint's
    assert len(one_by_one) == 1
    manifold.field.eval()  # weights may change then: a manifold is rounded as its file has it
    manifold.generate(manifold.frame.sizes(0.4))
    assert len(one_by_one) == 2
    monkeypatch.setattr(manifold.field.train(), "small", False)
    manifold.generate(manifold.frame.sizes(0.4))
    assert len(one_by_one) == 3


def test_plans_forget_weights_that_were_replaced(manifold) -> None:
    manifold.field.train()
    sizes, field = manifold.frame.sizes(0.4), manifold.field
    before = manifold.generate(sizes)
    other = {n: t + 1 if n.endswith("whole") else t for n, t in field.state_dict().items()}
    field.load_state_dict(other)
    after = manifold.generate(sizes)
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight + 1)
    for grid in field.grids.values():
        grid.whole.zero_()
    field.train()  # as the next fit does
    assert not any(torch.equal(w, after[name]) for name, w in manifold.generate(sizes).items())


def test_copies_of_a_field_make_plans_of_their_own(manifold) -> None:
    manifold.field.train()
    targets = list(manifold.targets(manifold.frame.sizes(0.4)))
    manifold.field(targets, None)
    other = copy.deepcopy(manifold.field)
    different = list(manifold.targets(manifold.frame.sizes(0.6)))
    other._plans[id(different)] = other._plans[id(targets)]  # as if the number came again
    for own, wanted in zip(other(different, None), manifold.field(different, None), strict=True):
        assert torch.equal(own, wanted)

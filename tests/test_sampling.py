"""Weights drawn K times: their mean, the pieces they come in."""

import pytest
import torch
from test_manifold import FACTORISED, INTEGRAL, MLP, NOISE, SELECTED, manifold_of

from neumeta_cli.manifold import Noise, inr_settings
from neumeta_cli.manifold.inr import network as mlp
from neumeta_cli.manifold.manifold import SAMPLING_SEED


@pytest.mark.parametrize(
    ("inr", "by"),
    [
        (MLP, {"per": "type"}),
        (MLP, {"per": "tensor"}),
        (FACTORISED, {}),
        (SELECTED, {}),
        (INTEGRAL, {}),
    ],
    ids=str,
)
def test_sampling_is_the_mean_of_its_draws_and_repeats_itself(build, inr, by) -> None:
    """Many draws at once, constants in a bias: as one draw after another in training has it."""
    manifold = manifold_of(build, inr=inr.model_copy(update=by))
    manifold.noise = NOISE.model_copy(update={"precision": "float32"})
    sizes = manifold.frame.sizes(0.5)
    sampled = manifold.draw(sizes, 3)
    for target in manifold.targets(sizes):
        generator = torch.Generator().manual_seed(SAMPLING_SEED + target.spec.layer)
        noise = Noise(NOISE.channels, NOISE.sizes, generator)
        draws = [manifold.inr([target], noise)[0] for _ in range(3)]
        wanted = torch.stack(draws).mean(0)
        torch.testing.assert_close(sampled[target.spec.name], wanted, rtol=1e-4, atol=1e-5)
    again = manifold.draw(sizes, 3)
    assert all(torch.equal(weight, again[name]) for name, weight in sampled.items())


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("sizes_too", [True, False])
@pytest.mark.parametrize("frequencies", [(4, 4), (5, 2), (3, 0)])
def test_evaluating_in_pieces_is_the_network_itself(
    monkeypatch, frequencies, sizes_too, fused
) -> None:
    """Up to rounding; whichever coordinates are the same at all points."""
    monkeypatch.setattr(mlp, "CPU_ROWS", 7)
    has = mlp._fuses
    monkeypatch.setattr(mlp, "_fuses", lambda dtype: fused and has(dtype))
    torch.manual_seed(0)
    coordinates = mlp.Coordinates(frequencies)
    network = mlp.ResidualMLP(coordinates.features, 16, 3, 4)
    points = torch.rand(20, 6)
    points[:, [0, 3]] = 0.3
    if not sizes_too:
        points[:, 4:] = 0.7
    made = mlp.evaluate(network, coordinates, points)
    torch.testing.assert_close(made, network(coordinates.embed(points)), rtol=1e-5, atol=1e-6)
    assert mlp.evaluate(network, coordinates, points[:1]).shape == (1, 4)


@pytest.mark.slow
def test_bfloat16_changes_draws_far_less_than_other_noise_does(build, monkeypatch) -> None:
    """With the paper's INR, K and scope."""
    manifold = manifold_of(build, inr=inr_settings("mlp"), scope="paper")
    sizes, drawn = manifold.frame.sizes(0.1), {}
    for precision, shift in (("float32", 0), ("bfloat16", 0), ("float32", 1000)):
        monkeypatch.setattr("neumeta_cli.manifold.manifold.SAMPLING_SEED", SAMPLING_SEED + shift)
        manifold.noise = NOISE.model_copy(update={"precision": precision, "channels": 0.5})
        drawn[precision, shift] = manifold.draw(sizes, 50)
    exact, rounded, other = drawn.values()
    for name, weight in exact.items():
        by_rounding = (rounded[name] - weight).norm()
        assert 0 < by_rounding < 0.3 * (other[name] - weight).norm()


@pytest.mark.slow
@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_is_chosen_for_the_draws_of_an_mlp_alone(build, monkeypatch, has: bool) -> None:
    monkeypatch.setattr("neumeta_cli.manifold.manifold.computes_bfloat16", lambda _: has)
    for inr in (MLP, FACTORISED, SELECTED):
        manifold = manifold_of(build, inr=inr)
        sizes = manifold.frame.sizes(0.5)
        for count in (0, 1, 3):
            manifold.noise = NOISE
            made, lowered = manifold.draw(sizes, count), has and inr is MLP and count == 3
            manifold.noise = NOISE.model_copy(
                update={"precision": "bfloat16" if lowered else "float32"}
            )
            same = manifold.draw(sizes, count)
            assert all(torch.equal(weight, same[name]) for name, weight in made.items())

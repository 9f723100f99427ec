"""Competitors under the same conditions, similarity, and what a comparison tells."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_fits import TINY, recipe_for

from neumeta_cli import pipeline
from neumeta_cli.checkpoint import load_checkpoint
from neumeta_cli.cli.options import parse_widths
from neumeta_cli.compare import chosen_methods, compare_methods, read_run
from neumeta_cli.compare.methods import METHODS, Bench, pruned, trained
from neumeta_cli.compare.report import clear_winner
from neumeta_cli.compare.results import MergedRow, MethodResult
from neumeta_cli.distill.draws import WidthPool
from neumeta_cli.errors import NeumetaError
from neumeta_cli.evaluate import L1_PRUNING, Likeness, linear_cka, measure, output_divergence
from neumeta_cli.manifold import build_manifold
from neumeta_cli.manifold.inr import inr_settings
from neumeta_cli.manifold.settings import NoiseSection
from neumeta_cli.pipeline import build_untrained
from neumeta_cli.recipe import Recipe, load_recipe, parse_recipe
from neumeta_cli.reporting import Silent
from neumeta_cli.resize import open_frame
from neumeta_cli.tasks import Metric, load_task
from neumeta_cli.training import train_network
from neumeta_cli.training.settings import TrainSection

QUICK = ("fit.epochs=1", "fit.limit=128", "fit.precision=float32", "compare.images=40")
QUICK += ("permute.solver=greedy",)


@given(st.integers(0, 10**6), st.floats(0.01, 100))
@settings(max_examples=30, deadline=None)
def test_cka_is_one_for_rotations_and_scales_and_less_otherwise(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, other = torch.randn(2, 40, 6, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))[0]
    assert linear_cka(x, scale * x @ rotation + 3) == pytest.approx(1)
    assert 0 <= linear_cka(x, other) < 0.9
    assert linear_cka(x, other) == pytest.approx(linear_cka(other, x))


def test_cka_by_gram_matrices() -> None:
    """HSIC of centred Gram matrices, the definition (Kornblith et al., eq. 3 and 4)."""
    x, y = torch.randn(12, 5).double(), torch.randn(12, 7).double()
    centre = torch.eye(12).double() - 1 / 12
    k, m = (centre @ t @ t.T @ centre for t in (x, y))
    expected = (k * m).sum() / (k.norm() * m.norm())
    assert linear_cka(x, y) == pytest.approx(float(expected))


def test_cka_of_many_features_is_that_of_few() -> None:
    """More features than inputs: computed by the Gram matrices of the inputs."""
    x, y = torch.randn(30, 5).double(), torch.randn(30, 7).double()
    wide = [torch.cat([t, torch.zeros(30, 40).double()], dim=1) for t in (x, y)]
    assert linear_cka(*wide) == pytest.approx(linear_cka(x, y))


def test_features_that_do_not_vary_are_like_none() -> None:
    x, same = torch.randn(12, 5), torch.ones(12, 4)
    assert linear_cka(x, same) == linear_cka(same, x) == 0


def test_networks_without_such_features_are_not_compared() -> None:
    recipe = load_recipe("digits_lenet")
    model = build_untrained(recipe)[0]
    task = load_task(recipe.data, model, (1, 8, 8))
    alike = {name: Likeness(task, 20, name) for name in (None, "conv9")}
    for likeness in alike.values():
        likeness.see(model)
        likeness.see(model, 0.5)
    assert alike["conv9"].found is None
    assert alike[None].found.cka == pytest.approx([1, 1])


def test_divergence_is_that_of_distributions() -> None:
    p, q = torch.randn(2, 9, 4)
    a, b = p.double().softmax(1), q.double().softmax(1)
    expected = float((a * (a / b).log()).sum(1).mean())
    assert output_divergence(p, q) == pytest.approx(expected)
    assert output_divergence(p, p + 5) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "widths"),
    [
        ("1,0.5", [1, 0.5]),
        ("0.25:1:0.25", [0.25, 0.5, 0.75, 1]),
        ("0.25:1.25:0.05", [round(0.25 + 0.05 * n, 9) for n in range(21)]),
        ("1,0.5:1:0.25", [1, 0.5, 0.75]),
    ],
)
def test_widths_are_lists_and_ranges(text: str, widths: list[float]) -> None:
    assert parse_widths(text) == widths


@pytest.mark.parametrize("text", ["1:2", "1:0.5:0.1", "0.1:1:0", "a", "0:1:1e-9", "0:inf:1"])
def test_widths_that_are_none(text: str) -> None:
    with pytest.raises(NeumetaError):
        parse_widths(text)


@pytest.mark.parametrize("name", ["us_net", "slimmable"])
def test_rivals_train_their_own_widths_and_no_others(build, monkeypatch, tmp_path, name) -> None:
    recipe = load_recipe("cifar10_resnet20_all")
    assert recipe.fit.anchor_spread  # which is not theirs
    seen: list[Recipe] = []
    monkeypatch.setattr(trained, "_of_one", lambda _, changed, folder: seen.append(changed))
    METHODS[name].run(SimpleNamespace(recipe=recipe), tmp_path)
    fit, inr = seen[0].fit, inr_settings(kind="selected")
    manifold, _ = build_manifold(
        *build("cifar_resnet20"), (3, 32, 32), "all", False, inr, NoiseSection()
    )
    pool, generator = WidthPool(manifold, fit), torch.Generator().manual_seed(0)
    networks = {tuple(d.sizes.items()) for _ in range(50) for d in pool.draw(generator)[1:]}
    own = recipe.fit.gamma if name == "us_net" else recipe.eval.gammas[1:]
    wanted = {tuple(manifold.frame.sizes(1 - g).items()) for g in own if g <= recipe.fit.gamma[1]}
    assert networks == wanted


@pytest.mark.slow
def test_every_method_gives_networks_of_the_same_cost(tmp_path: Path) -> None:
    recipe = load_recipe("digits_lenet", [*QUICK, "compare.methods=[all]", "fit.anchors=[0.5]"])
    comparison = compare_methods(recipe, tmp_path)
    assert [m.method for m in comparison.methods] == [
        name
        for name in METHODS
        if not name.endswith("_bn")  # LeNet has no norms
    ]
    costs = {}
    for method in comparison.methods:
        for row in method.rows:
            cost = (row.parameters, row.macs, row.bytes)
            assert costs.setdefault(row.gamma, cost) == cost, method.label
            assert 0 <= row.metrics["top-1"] <= 1
        found = method.similarity
        assert found.cka[0] == pytest.approx(1)
        assert len(found.kl) == len(found.gammas) == len(method.rows) + 1
        pairs = torch.tensor(found.cka_pairs)
        assert torch.equal(pairs, pairs.T)
        assert bool((pairs.diagonal() == 1).all())
        assert pairs[0].tolist() == pytest.approx(found.cka)
        assert method.stored_bytes > 0
    assert set(costs) == {0.0, 0.25, 0.5, 0.75}
    taken = {m.method: m.epochs for m in comparison.methods if m.epochs}
    assert taken["individual"] == 3 * taken["us_net"] == 3
    assert [row.gamma for row in comparison.latency] == recipe.eval.gammas
    assert json.loads((tmp_path / "compare.json").read_text("utf-8")) == comparison.as_dict()
    assert read_run(tmp_path) == comparison


@pytest.mark.slow
def test_what_has_been_run_is_not_run_again(tmp_path: Path) -> None:
    overrides = [*QUICK, "compare.methods=[us_net,l1]", "compare.seeds=2"]
    overrides += ["eval.gammas=[0.0,0.5]"]
    first = compare_methods(load_recipe("digits_lenet", overrides), tmp_path)
    results = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/result.json")}
    assert len(results) == 4
    again = compare_methods(load_recipe("digits_lenet", overrides), tmp_path)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/result.json")} == results
    assert again.methods == first.methods
    us_net = first.methods[0].rows[1]
    values = us_net.values["top-1"]
    assert len(values) == 2
    assert us_net.metrics["top-1"] == pytest.approx(sum(values) / 2)
    compare_methods(load_recipe("digits_lenet", [*overrides, "fit.learning_rate=1e-3"]), tmp_path)
    assert len(list(tmp_path.glob("*/result.json"))) == 8


@pytest.mark.slow
def test_another_width_takes_no_training_but_where_it_must(tmp_path: Path) -> None:
    def run(*gammas: float) -> dict[str, dict[str, float]]:
        methods = "compare.methods=[neumeta,slimmable,individual]"
        fields = [*QUICK, methods, f"eval.gammas={list(gammas)}"]
        comparison = compare_methods(load_recipe("digits_lenet", fields), tmp_path)
        count = len(gammas)
        assert [len(m.rows) for m in comparison.methods] == [count, count, count - 1]
        fits = tmp_path.rglob("manifold.safetensors")
        return {str(p.parent.relative_to(tmp_path)): p.stat().st_mtime_ns for p in fits}

    before = run(0.0, 0.5)
    after = run(0.0, 0.5, 0.25)
    assert {k: v for k, v in after.items() if k in before} == before
    new = {name.split("-")[0] + name.rpartition("/")[1] for name in after if name not in before}
    assert new == {"slimmable", "individual/"}


@pytest.mark.slow
def test_norm_statistics_are_calibrated_where_asked(
    build, image_folder: Path, tmp_path: Path
) -> None:
    torch.save(build(TINY)[0].state_dict(), tmp_path / "model.pth")
    recipe = parse_recipe(
        {
            "name": "norms",
            "model": {
                "arch": TINY,
                "input_size": [3, 16, 16],
                "checkpoint": str(tmp_path / "model.pth"),
            },
            "data": {"root": str(image_folder)},
            "scope": "all",
            "norm": {"fold": True, "images": 32},
            "eval": {"gammas": [0.0, 0.5]},
            "compare": {"methods": ["l1", "l1_bn", "taylor_bn"], "images": 20},
        },
        "norms",
    )
    plain, calibrated, taylor = compare_methods(recipe, tmp_path / "run").methods
    assert [r.gamma for r in plain.rows] == [0.0, 0.5]
    assert plain.similarity.kl[0][1] == pytest.approx(0)  # the checkpoint itself
    assert calibrated.similarity.kl[0][1] > 1e-6
    assert plain.rows[1].parameters == taylor.rows[1].parameters


@pytest.mark.slow
def test_pruning_by_norm_has_one_figure_in_fit_and_compare(
    build, image_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    """Also where a fit folds its norms, and channels would be ranked otherwise afterwards."""
    model, _ = build(TINY)
    task = load_task(recipe_for(image_folder).data, model, (3, 16, 16))
    train = TrainSection(epochs=4, batch_size=40, precision="float32", learning_rate=3e-3)
    torch.save(train_network(model, task, train).state_dict(), tmp_path / "model.pth")
    recipe = recipe_for(
        image_folder,
        model={"arch": TINY, "checkpoint": str(tmp_path / "model.pth")},
        scope="all",
        norm={"fold": True},
        inr={"kind": "selected"},
        fit={"epochs": 1},
        eval={"gammas": [0.0, 0.2], "watch": 0},
        compare={"methods": ["l1"], "images": 20},
    )
    monkeypatch.chdir(tmp_path)
    fitted = [
        r for r in pipeline.run_recipe(recipe, tmp_path / "fit").rows if r.method == L1_PRUNING
    ]
    (compared,) = compare_methods(recipe, tmp_path / "compare").methods
    assert [r.metrics for r in fitted] == [r.metrics for r in compared.rows]
    assert {r.method for r in fitted} == {compared.label}
    assert len({r.metrics["top-1"] for r in fitted}) > 1


@pytest.mark.slow
def test_an_ablation_varies_the_recipe(tmp_path: Path) -> None:
    vary = "compare.vary={permute.solver: [2.5-opt, identity], noise.channels: [0.0, 0.2]}"
    comparison = compare_methods(load_recipe("digits_lenet", [*QUICK, vary]), tmp_path)
    assert [m.label for m in comparison.methods] == [
        f"permute.solver={solver}, noise.channels={noise}"
        for solver in ("2.5-opt", "identity")
        for noise in (0.0, 0.2)
    ]
    assert len({m.rows[1].metrics["top-1"] for m in comparison.methods}) > 1


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("compare.methods=[magic]", "no method 'magic'"),
        ("compare.vary={loss.recn: [1]}", "did you mean loss.recon"),
        ("compare.vary={loss.recon: [-1]}", "loss.recon"),
        ("compare.vary={recon: [1]}", "no field 'recon'"),
        ("compare.vary={data.flip: [true]}", "the same for all"),
        ("compare.vary={fit.limit: [64]}", "the same for all"),
    ],
)
def test_wrong_comparisons_fail_before_any_data_is_read(override: str, said: str) -> None:
    with pytest.raises(NeumetaError, match=said):
        chosen_methods(load_recipe("digits_lenet", [override]))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["eval.gammas=[1.0]"], "width 0"),
        (["compare.layer=nosuch"], "no layer 'nosuch'"),
        (["compare.methods=[l1_bn]"], "nothing to compare"),
        (["compare.methods=[]"], "nothing to compare"),
    ],
)
def test_wrong_comparisons_fail_before_anything_is_run(overrides, said, tmp_path: Path) -> None:
    with pytest.raises(NeumetaError, match=said):
        compare_methods(load_recipe("digits_lenet", [*QUICK, *overrides]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_networks_that_grow_are_compared_too(tmp_path: Path) -> None:
    overrides = ["compare.methods=[neumeta,l1]", "eval.gammas=[0.0,-0.25]", "seed=5"]
    comparison = compare_methods(load_recipe("digits_lenet", [*QUICK, *overrides]), tmp_path)
    ours, pruned = comparison.methods
    assert [r.width for r in ours.rows] == [1.25, 1.0]
    assert [r.width for r in pruned.rows] == [1.0]
    assert len(comparison.latency) == 2
    assert ours.seeds == [5]


def test_the_hessians_diagonal_is_the_mean_over_images(monkeypatch) -> None:
    """And Taylor's gradient that of the mean loss."""
    for name in ("HESSIAN_IMAGES", "TAYLOR_IMAGES"):
        monkeypatch.setattr(pruned, name, 6)
    recipe = load_recipe("digits_lenet")
    checkpoint, task = pipeline.open_inputs(recipe)
    frame = open_frame(checkpoint.model, checkpoint.input_size)
    bench = Bench(checkpoint, frame, task, recipe, "cpu", Silent())
    index = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(0))[:6]
    model = checkpoint.model.requires_grad_(True)
    weight = dict(model.named_parameters())["conv2.weight"]
    gradients = []
    for i in index:
        scores = model(task.inputs(task.train, i[None], None))
        loss = task.loss(scores, task.train.labels[i[None]])
        gradients.append(torch.autograd.grad(loss, weight)[0])
    stacked = torch.stack(gradients)
    leave = {
        pruned.leave_squares: stacked.square().mean(0),
        pruned.leave_gradients: stacked.mean(0),
    }
    for differentiate, expected in leave.items():
        differentiate(model, bench)
        torch.testing.assert_close(weight.grad, expected, rtol=1e-4, atol=1e-9)


def result_of(label: str, *values: tuple[float, float | None]) -> MethodResult:
    """A method's result at γ = 0.5, from means and deviations."""
    cost = {"parameters": 1, "macs": 1, "bytes": 4}
    rows = [
        MergedRow(width=0.5, gamma=0.5, **cost, metrics={"m": value}, deviations={"m": spread})
        for value, spread in values
    ]
    spent = {"seeds": [0, 1], "folders": [], "seconds": 0, "epochs": 0, "stored_bytes": 4}
    return MethodResult(method=label, label=label, rows=rows, **spent)


def test_a_difference_that_chance_may_explain_is_not_called_better() -> None:
    share, error = Metric("m"), Metric("m", higher_is_better=False, share=False)
    a, b = result_of("a", (0.9, 0.01)), result_of("b", (0.85, 0.02))
    assert clear_winner([a, b], 0.5, 10_000, share) == "a"
    assert clear_winner([a, b], 0.5, 10_000, error) == "b"
    assert clear_winner([a, b], 0.5, 50, share) is None  # 2.5 images
    wide = [result_of("a", (0.9, 0.03)), result_of("b", (0.85, 0.03))]
    assert clear_winner(wide, 0.5, 10_000, share) is None
    once = [result_of("a", (0.9, None)), result_of("b", (0.5, None))]
    assert clear_winner(once, 0.5, 10_000, share) is None
    assert clear_winner([a, result_of("b")], 0.5, 10_000, share) is None


@pytest.mark.slow
def test_compare_and_eval_on_the_command_line(neumeta, monkeypatch) -> None:
    monkeypatch.setattr(measure, "measure_latency", lambda model, size, batch: batch / 8)
    sets = [part for key in QUICK for part in ("--set", key)]
    arguments = ("--methods", "us_net,l1", "--widths", "1,0.5", *sets, "--run", "a run")
    result = neumeta("compare", "--recipe", "digits_lenet", *arguments)
    assert result.code == 0, result.stderr
    assert "universally slimmable" in result.stdout
    as_json = neumeta("compare", "--recipe", "digits_lenet", *arguments, "--json", "-")
    document = json.loads(as_json.stdout)
    assert [r["gamma"] for r in document["methods"][0]["rows"]] == [0.0, 0.5]
    manifold = next(Path("a run").glob("us_net*/manifold.safetensors"))
    result = neumeta(
        *("eval", manifold, "--widths", "0.5:1:0.25", "--samples", "0,2", "--json", "-")
    )
    rows = json.loads(result.stdout)["rows"]
    assert [(r["samples"], r["width"]) for r in rows] == [
        (k, w) for k in (0, 2) for w in (0.5, 0.75, 1.0)
    ]
    assert all((r["seconds_batch_1"], r["seconds_batch_64"]) == (1 / 8, 8) for r in rows)
    assert neumeta("eval", manifold, "--widths", "1:2").code == 1
    assert neumeta("eval", manifold, "--samples", "-1").code == 1


@pytest.mark.slow
def test_a_permuted_checkpoint_of_a_comparison_computes_the_same(tmp_path: Path) -> None:
    recipe = load_recipe("digits_lenet", [*QUICK, "compare.methods=[random]"])
    comparison = compare_methods(recipe, tmp_path)
    before, after = (
        load_checkpoint(Path(p)).model.double()
        for p in (str(recipe.model.checkpoint), tmp_path / "permuted.safetensors")
    )
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    assert relative_error(after(x), before(x)) < 1e-9
    assert all(new < old for old, new in comparison.total_variation.values())

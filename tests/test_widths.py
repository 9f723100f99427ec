"""How wide an exported network is: patterns, channels, budgets, targets, a search, families."""

import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from manifolds import saved_manifold
from test_cli import fails
from test_manifold import FACTORISED, SELECTED, manifold_of

import neumeta_cli
from neumeta_cli.checkpoint import read_weights
from neumeta_cli.cli.widths import parse_budget, parse_wish
from neumeta_cli.errors import NeumetaError
from neumeta_cli.export.choose.budget import Budget, Meter, narrowest_reaching, widest_within
from neumeta_cli.export.choose.search import halves, search_widths
from neumeta_cli.export.choose.wish import Choice, Wish, cost_of
from neumeta_cli.export.family import export_family
from neumeta_cli.manifold import Manifold, Provenance, load_manifold, save_manifold
from neumeta_cli.resize import sizes_at
from neumeta_cli.tasks import Metric, Task, load_task

LAYER3 = {"layer3.0.downsample.0", "layer3.0.conv1", "layer3.1.conv1", "layer3.2.conv1"}


@pytest.fixture(scope="module")
def lenet() -> tuple[Manifold, Task]:
    """The digits LeNet as a manifold that nobody has fitted, which prunes, and its data."""
    recipe = neumeta_cli.load_recipe("digits_lenet")
    assert recipe.model.checkpoint is not None
    checkpoint = neumeta_cli.load_checkpoint(Path(recipe.model.checkpoint))
    manifold, _ = neumeta_cli.build_manifold(
        checkpoint.model, checkpoint.arch, (1, 8, 8), "all", True, recipe.inr, recipe.noise
    )
    manifold.requires_grad_(False)
    manifold.provenance = Provenance(recipe=recipe.model_dump(mode="json"))
    task = load_task(recipe.data, checkpoint.model, (1, 8, 8), train=False)
    return manifold, task


@pytest.fixture
def lenet_file(lenet, tmp_path: Path) -> Path:
    return save_manifold(tmp_path / "lenet.safetensors", lenet[0])


@pytest.fixture(scope="module")
def resnet() -> Manifold:
    from neumeta_cli.checkpoint import resolve

    model = resolve("cifar_resnet20").build("cpu")
    return manifold_of(lambda _: (model, resolve("cifar_resnet20")), inr=SELECTED)


def test_patterns_name_modules_cliques_and_globs(resnet: Manifold) -> None:
    named = Choice(resnet, Wish(named=(("layer3", 0.25), ("layer2.*.conv1", 0.5)))).named
    assert {name for name, width in named.items() if width == 0.25} == LAYER3
    assert {n for n, w in named.items() if w == 0.5} == {f"layer2.{i}.conv1" for i in range(3)}
    # The stream through layer1 begins in conv1; a later pattern goes before an earlier one.
    named = Choice(resnet, Wish(named=(("*", 0.5), ("layer1.2.conv2", 0.75)))).named
    assert named["conv1"] == 0.75
    assert set(named.values()) == {0.5, 0.75}
    choice = Choice(resnet, Wish(0.5, (("layer3.2", 1.0),)))
    sizes = choice.sizes(0.5)
    assert (sizes["layer3.2.conv1"], sizes["layer3.1.conv1"]) == (64, 32)


def test_channels_of_a_module_and_what_is_tied_to_it(resnet: Manifold) -> None:
    choice = Choice(resnet, Wish(0.5, channels=(("layer3.2.conv1", 37), ("layer2.2.conv2", 11))))
    network = resnet.sample(sizes=choice.sizes(0.5))
    assert network.layer3[2].conv1.out_channels == 37
    assert {block.conv2.out_channels for block in network.layer2} == {11}
    assert network.layer1[0].conv1.out_channels == 8


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (Wish(named=(("layr3", 0.5),)), "--width layr3: fits no clique; in scope are layer3"),
        (Wish(named=(("fc", 0.5),)), "--width fc: fits no clique"),
        (Wish(named=(("layer3", 0.0),)), "width 0 is not a positive number"),
        (Wish(channels=(("layer9", 3),)), "--channels layer9: no such module"),
        (Wish(channels=(("fc", 3),)), "output channels cannot change"),
        (Wish(channels=(("layer3.2.conv1", 0),)), "not possible, it has 1 or more; try 1"),
        (
            Wish(channels=(("layer3.2.conv2", 3), ("layer3.1.conv2", 4))),
            "another --channels gives layer3.0.downsample.0",
        ),
    ],
)
def test_wishes_that_cannot_be(resnet: Manifold, wish: Wish, words: str) -> None:
    with pytest.raises(NeumetaError) as error:
        Choice(resnet, wish)
    assert words in str(error.value)


def test_heads_and_groups_have_steps_of_their_own(build) -> None:
    """A transformer's cliques of heads; what is linked stays linked."""
    manifold = manifold_of(build, "timm/test_vit", SELECTED, fold=False)
    choice = Choice(manifold, Wish())
    for width in (0.3, 0.55, 0.8):
        sizes = choice.sizes(width)
        assert sizes == manifold.frame.sizes(width)
        assert cost_of(manifold, sizes).parameters > 0
    heads = next(c for c in manifold.frame.trace.cliques if c.copies > 1 and c.name in choice.full)
    module = next(m.weight for m in heads.members if m.dim == 0).rpartition(".")[0]
    with pytest.raises(
        NeumetaError, match=rf"--channels {module}(=1)?: (not possible|its outputs)"
    ):
        Choice(manifold, Wish(channels=((module, 1),)))


@settings(max_examples=25, deadline=None)
@given(st.floats(0.01, 1.3), st.integers(1, 40))
def test_rounding_gives_multiples_and_never_nothing(resnet, width: float, multiple: int) -> None:
    choice = Choice(resnet, Wish(multiple=multiple))
    for name, size in choice.sizes(width).items():
        full = choice.full[name]
        assert size >= 1
        assert size % multiple == 0 or (size == full < multiple)
        assert size <= max(full, width * full + 1)


def test_the_grid_has_every_network_once(resnet: Manifold) -> None:
    choice = Choice(resnet, Wish(named=(("layer1", 0.5), ("layer2", 0.5))))
    grid = choice.grid()
    networks = [tuple(choice.sizes(width).values()) for width in grid]
    assert len(set(networks)) == len(networks) == 64
    assert networks == sorted(networks)
    assert grid[-1] == 1.0
    assert all(tuple(choice.sizes(k / 640).values()) in networks for k in range(1, 641))


@settings(max_examples=15, deadline=None)
@given(
    st.floats(0.02, 1.2), st.sampled_from(["parameters", "macs", "bytes"]), st.sampled_from([1, 4])
)
def test_the_widest_network_within_a_budget(lenet, share, name, multiple) -> None:
    """It holds, and the next wider one does not."""
    manifold, _ = lenet
    choice = Choice(manifold, Wish(multiple=multiple))
    limit = share * getattr(cost_of(manifold, choice.full), name)
    meter = Meter(manifold, Budget(**{name: limit}))
    grid = choice.grid()
    if meter.share(choice.sizes(grid[0])) > 1:
        with pytest.raises(NeumetaError, match="no network is that small; the smallest needs"):
            widest_within(choice, meter)
        return
    found = widest_within(choice, meter)
    assert getattr(cost_of(manifold, found.sizes), name) == found.cost[name] <= limit
    wider = [width for width in grid if width > found.width]
    assert not wider or meter.share(choice.sizes(wider[0])) > 1


def test_a_budget_may_be_a_share_of_the_whole_network(resnet: Manifold) -> None:
    """Also where the networks lack blocks."""
    whole = cost_of(resnet, resnet.frame.full)
    given = parse_budget("30%", "12.5 %", "50%", None)
    assert given.parameters == 0.3
    for manifold in (resnet, resnet.without(["layer1.1"])):
        meter = Meter(manifold, given, scale=0.5)
        assert meter.budget.limits == {
            "parameters": pytest.approx(0.3 * whole.parameters),
            "macs": pytest.approx(0.125 * whole.macs),
            "bytes": pytest.approx(0.25 * whole.bytes),
        }
        found = widest_within(Choice(manifold, Wish()), meter)
        assert found.cost["macs"] <= 0.125 * whole.macs
    with pytest.raises(NeumetaError, match="--max-latency 50%"):
        parse_budget(None, None, None, "50%")


def test_several_budgets_hold_together(lenet) -> None:
    manifold, _ = lenet
    both = Budget(parameters=5000, macs=20000)
    found = widest_within(Choice(manifold, Wish()), Meter(manifold, both))
    assert found.cost["parameters"] <= 5000
    assert found.cost["macs"] <= 20000
    slow = Budget(parameters=5000, seconds=1e-9)
    with pytest.raises(NeumetaError, match="--max-latency 1e-06ms: no network is that small"):
        widest_within(Choice(manifold, Wish()), Meter(manifold, slow))


def test_the_narrowest_network_that_is_good_enough(lenet) -> None:
    manifold, _ = lenet
    choice, meter = Choice(manifold, Wish()), Meter(manifold, Budget())
    wanted = choice.grid()[7]

    def score(sizes) -> float:
        return sum(sizes.values()) / sum(choice.full.values())

    target = score(choice.sizes(wanted))
    found, reached = narrowest_reaching(choice, meter, target, Metric("m"), score)
    assert (found.width, reached) == (wanted, target)
    assert narrowest_reaching(choice, meter, 0.0, Metric("m"), score)[0].width == choice.grid()[0]
    small = Meter(manifold, Budget(parameters=1000))
    with pytest.raises(NeumetaError, match="the widest network that the budget allows"):
        narrowest_reaching(choice, small, 1.0, Metric("m"), score)


@pytest.mark.slow
def test_a_search_loses_less_at_the_same_budget_and_repeats_itself(lenet) -> None:
    """Of a network whose first layer matters more than one width for all gives it."""
    manifold, task = lenet
    choice = Choice(manifold, Wish())
    meter = Meter(manifold, Budget(parameters=4000))
    uniform = widest_within(choice, meter)
    first, again = (
        search_widths(choice, meter, uniform, task, seed=1, samples=40) for _ in range(2)
    )
    assert first == again
    assert first.samples <= 40
    assert first.uniform.found == uniform
    assert first.allocated.found.cost["parameters"] <= 4000
    assert first.best.loss == min(first.uniform.loss, first.allocated.loss)
    assert first.best is first.allocated
    scoring, judging = halves(task, 1)
    seen = {tuple(image.flatten().tolist()) for image in scoring.test.pixels}
    unseen = {tuple(image.flatten().tolist()) for image in judging.test.pixels}
    assert len(scoring.test) + len(judging.test) == len(task.test)
    assert len(seen & unseen) < 3  # but for images that the digits have twice


@pytest.mark.slow
def test_widths_and_budgets_as_users_type_them(neumeta, lenet_file: Path) -> None:
    export = ["export", lenet_file]
    uneven = ["--width", "conv2=0.25", "--width", "0.75", "-o", "b.pt", "--json", "-"]
    document = json.loads(neumeta(*export, *uneven).stdout)
    network = neumeta_cli.load("b.pt")
    assert network.conv2.out_channels == document["sizes"]["conv2"] == 8
    assert read_weights(Path("b.pt")).metadata["width"] == pytest.approx(document["width"])
    assert neumeta("eval", "b.pt", "--no-latency", "-q").code == 0
    size = ["--max-size", "20KB", "--max-params", "5k", "-o", "d.safetensors", "--json", "-"]
    document = json.loads(neumeta(*export, *size).stdout)
    assert Path("d.safetensors").stat().st_size == document["bytes"] <= 20000
    assert document["budget"]["parameters"]["reached"] == document["parameters"] <= 5000
    best = ["--target-accuracy", "0.8", "-o", "g.pt", "--json", "-"]
    document = json.loads(neumeta(*export, *best).stdout)
    measured = json.loads(neumeta("eval", "g.pt", "--no-latency", "--json", "-").stdout)
    assert document["judged_images"] == 180  # of 359; the others chose
    both = measured["rows"][0]["metrics"]["top-1"]
    chosen_on = (359 * both - 180 * document["metrics"]["top-1"]) / 179
    assert chosen_on >= 0.8 - 1e-6
    told = neumeta(*export, "--target-accuracy", "0.8", "-o", "g2.pt").stdout
    assert re.search(r"top-1 [\d.]+% ± [\d.]+% on 180 images of their own", told)
    found = neumeta(
        *(*export, "--max-macs", "20k", "--search", "--search-samples", "10", "-o", "h.pt")
    )
    assert found.code == 0
    assert "one width for all" in found.stdout
    before = sorted(os.listdir())
    fails(neumeta(*export, "--max-params", "10", "-o", "x.pt"), "the smallest needs", "47")
    fails(neumeta(*export, "--max-size", "1KB", "-o", "x.pt"), "--max-size 1000")
    fails(neumeta(*export, "--max-size", "much", "-o", "x.pt"), "such as 400KB")
    fails(neumeta(*export, "--width", "cnv2=1", "-o", "x.pt"), "in scope are conv2")
    fails(neumeta(*export, "--channels", "conv1", "-o", "x.pt"), "MODULE=N")
    fails(neumeta(*export, "--target-accuracy", "0.9999", "-o", "x.pt"), "the widest network")
    fails(neumeta(*export, "--max-params", "5k", "--search", "-o", "x.exe"), "x.exe")
    for wrong in (["--width", "1", "--max-params", "5k"], ["--search", "--width", "1"], []):
        assert neumeta(*export, *wrong, "-o", "x.pt").code == 2
    assert sorted(os.listdir()) == before


def test_amounts_have_units() -> None:
    budget = parse_budget("100k", "20M", "400KiB", "5ms")
    assert (budget.parameters, budget.macs, budget.bytes) == (1e5, 2e7, 409600)
    assert math.isclose(budget.seconds or 0, 0.005)
    for wrong in ("-1", "0", "0%", "1.2.3", "k", "5 apples", "nan"):
        with pytest.raises(NeumetaError, match="--max-params"):
            parse_budget(wrong, None, None, None)
    assert parse_wish(["a=b=0.5", "0.25"], None, 1) == Wish(0.25, (("a=b", 0.5),))
    with pytest.raises(NeumetaError, match="twice without a pattern"):
        parse_wish(["0.5", "0.25"], None, 1)


@pytest.mark.slow
def test_a_family_is_written_whole(neumeta, lenet_file: Path) -> None:
    export = ["export", lenet_file, "-o", "family", "--format", "safetensors"]
    result = neumeta(*export, "--widths", "1,0.5", "--data", Path("none"))
    fails(result, "none")
    assert not Path("family").exists()
    assert neumeta(*export, "--widths", "1,0.5,0.25").code == 0
    rows = json.loads(Path("family/index.json").read_text())["networks"]
    assert [row["width"] for row in rows] == [1.0, 0.5, 0.25]
    for row in rows:
        network = neumeta_cli.load(Path("family") / row["file"])
        assert sum(p.numel() for p in network.parameters()) == row["parameters"]
        assert (Path("family") / row["file"]).stat().st_size == row["bytes"]
        assert row["latency"] > 0
        assert row["metrics"] is None  # nobody has fitted or measured this one
    fails(neumeta(*export, "--widths", "0.75"), "index.json exists", "--overwrite")
    assert (
        neumeta(*export, "--widths", "0.75", "--overwrite").code == 0
    )  # in place of the earlier one
    assert sorted(os.listdir("family")) == ["index.json", "width-0.75.safetensors"]
    Path("full").mkdir()
    Path("full", "thesis.tex").touch()
    result = neumeta("export", lenet_file, "--widths", "1", "-o", "full")
    fails(result, "holds other things")
    assert os.listdir("full") == ["thesis.tex"]


@pytest.mark.slow
def test_a_family_that_fails_leaves_nothing(build, tmp_path: Path) -> None:
    manifold = manifold_of(build, "lenet", FACTORISED)
    choice, calls = Choice(manifold, Wish()), []

    def measure(network: torch.nn.Module) -> dict[str, float]:
        calls.append(network)
        if len(calls) == 2:
            raise NeumetaError("no more")
        return {"top-1": 0.5}

    with pytest.raises(NeumetaError, match="no more"):
        export_family(choice, tmp_path / "family", [1.0, 0.5, 0.25], measure=measure)
    assert os.listdir(tmp_path) == []
    with pytest.raises(NeumetaError, match="not a positive number"):
        export_family(choice, tmp_path / "family", [1.0, 0.0])
    rows = export_family(choice, tmp_path / "family", [0.5], measure=lambda _: {"top-1": 0.25})
    assert rows[0].metrics == {"top-1": 0.25}
    assert sizes_at(manifold.frame.trace, rows[0].sizes, 0.5) == rows[0].sizes


@pytest.mark.slow
def test_a_family_replaces_a_family_and_nothing_else(
    lenet: tuple[Manifold, Task], tmp_path: Path
) -> None:
    choice, folder = Choice(lenet[0], Wish()), tmp_path / "family"
    export_family(choice, folder, [0.5, 0.25])
    export_family(choice, folder, [0.5, 0.50001])
    assert len(list(folder.iterdir())) == 3
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(NeumetaError, match="holds other things"):
        export_family(choice, folder, [0.5])
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.json").write_text("{}")
    (site / "page.html").write_text("mine")
    with pytest.raises(NeumetaError, match="holds other things"):
        export_family(choice, site, [0.5])
    assert (site / "page.html").read_text() == "mine"


def test_what_an_export_refuses_before_it_writes(neumeta, tmp_path: Path) -> None:
    path = saved_manifold(tmp_path)
    before = path.read_bytes()
    for options, words in (
        (["--width", "0.5", "-o", path], "is the manifold itself"),
        (["--width", "0.5", "--dtype", "int8", "-o", "x.pt"], "unknown number format"),
        (["--max-params", "1e400", "-o", "x.pt"], "positive amount"),
        (["--max-params", "0.5", "-o", "x.pt"], "--max-params 0.5: no network"),
        (["--width", "1e7", "-o", "x.pt"], ""),
    ):
        result = neumeta("export", path, *options)
        assert result.code == 1, options
        assert words in result.stderr
        assert "internal" not in result.stderr
        assert not Path("x.pt").exists()
    both = neumeta("export", path, "--target-accuracy", "0.1", "--search", "-o", "x.pt")
    assert both.code == 2
    assert path.read_bytes() == before


def test_half_precision_is_measured_too_and_own_tasks_are_not_imported(
    neumeta, tmp_path: Path
) -> None:
    path = saved_manifold(tmp_path)
    half = ["--width", "0.5", "--dtype", "float16", "-o", "h.pt", "-r", "digits_lenet"]
    measured = neumeta("export", path, *half)
    assert measured.code == 0, measured.stderr
    assert "top-1" in measured.stdout
    manifold = load_manifold(path)
    recipe = {**manifold.provenance.recipe, "task": "evil_task:T"}
    manifold.provenance = replace(manifold.provenance, recipe=recipe)
    save_manifold(path, manifold)
    Path("evil_task.py").write_text("open('imported', 'w')\n")
    assert neumeta("export", path, "--width", "0.5", "-o", "h.pt", "--overwrite").code == 0
    assert not Path("imported").exists()
    refused = neumeta("eval", "h.pt", "--no-latency")
    assert refused.code == 1
    assert "--trust-code" in refused.stderr
    assert not Path("imported").exists()

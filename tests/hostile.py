"""Manifolds, recipes, families and run folders that someone could hand on to do harm."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from damage import STRANGE, damaged, places, put, rewritten
from safetensors.torch import load_file, save_file
from tally import Half, Wrong
from torch import Tensor

from neumeta_cli.checkpoint import read_weights
from neumeta_cli.export import Choice, Wish, describe, export_family, export_network, load
from neumeta_cli.recipe import Recipe, load_recipe
from neumeta_cli.shipped import recipe_files

Make = Callable[[Path], Path]  # writes a file into an empty folder
HUGE = [10**30, 10**12, 10**9, 2**63, -(2**63), -(10**9), 1e300, float("inf"), float("nan")]
SIZES = [  # of an input, which a file may say
    *([1, 10**9, 10**9], [1, -8, 8], [0, 8, 8], [1, 8, 10**6], [10**9, 8, 8], [1, 8], [1, 8, 8, 8]),
    *([1, 1, 1], [3, 8, 8], ["1", "8", "8"], [1.5, 8, 8], [True, 8, 8]),
]
MODEST = 4096  # entries of a list, more than any file has
LEVELS = 400  # of a document that is nested as no file is


# Manifolds


def told(manifold: Path) -> list[tuple[Any, ...]]:
    """Every place in what a manifold's file says, but its checksum."""
    metadata = read_weights(manifold).metadata
    return [place for place in places(metadata) if place[0] != "digest"]


def manifolds(whole: Path, count: int, seed: int = 0) -> Iterator[tuple[str, Make]]:
    """Cases by name: what the file says becomes something else, or its tensors do."""
    rng = random.Random(seed)
    entries = told(whole)
    special = [
        *((("input_size",), size) for size in SIZES),
        *((("inr", "knots"), knots) for knots in ([0.5] * MODEST, [0.1, 0.2, 0.9], [], [2.0])),
        *(
            (("noise", field), value)
            for field in ("samples", "channels", "sizes")
            for value in HUGE
        ),
        (("scope",), ["conv1"] * MODEST),
        (("scope",), ["../../etc/passwd"]),
        (("provenance", "recipe"), deep(LEVELS)),
        (("provenance", "metrics"), {"table": [{"method": "x" * MODEST}] * MODEST}),
        (("arch", "cuts"), [{"cliques": {"x": 1}}] * MODEST),
        (("arch", "kwargs"), {"num_classes": 100_000}),
    ]
    for number in range(count):
        if number < len(special):
            changes = [special[number]]
        elif number % 3 == 0:
            yield f"tensors {number}", _tensors_changed(whole, rng.randrange(2**32))
            continue
        else:
            several = rng.choice([1, 1, 2, 5])
            values = [*STRANGE, *HUGE, KeyError]
            changes = [(rng.choice(entries), rng.choice(values)) for _ in range(several)]
        yield f"{changes[0][0]} = {str(changes[0][1])[:40]}", _told_otherwise(whole, changes)


def deep(levels: int) -> Any:
    """A document so nested that readers which call themselves run out of stack."""
    document: Any = 0
    for _ in range(levels):
        document = [document]
    return document


def _told_otherwise(whole: Path, changes: Sequence[tuple[tuple[Any, ...], Any]]) -> Make:
    def make(folder: Path) -> Path:
        def change(metadata: dict[str, Any]) -> None:
            for place, value in changes:
                try:
                    put(metadata, place, value)
                except (KeyError, IndexError, TypeError):  # an earlier change took it away
                    continue

        return rewritten(whole, folder / "manifold.safetensors", change)

    return make


def _tensors_changed(whole: Path, seed: int) -> Make:
    """One to three tensors of another shape, type, number or name, without a checksum."""

    def make(folder: Path) -> Path:
        rng, tensors = random.Random(seed), load_file(whole)
        for _ in range(rng.choice([1, 1, 2, 3])):
            name = rng.choice(sorted(tensors))
            changed = rng.choice(OTHERWISE)(tensors[name], rng)
            if changed is None:
                del tensors[name]
            elif rng.random() < 0.1:
                tensors[f"inr.{name}"] = changed
            else:
                tensors[name] = changed.contiguous()
        metadata = read_weights(whole).metadata
        del metadata["digest"]
        path = folder / "manifold.safetensors"
        save_file(tensors, path, {"neumeta": json.dumps(metadata)})
        return path

    return make


def _somewhere(tensor: Tensor, rng: random.Random, value: float) -> Tensor:
    tensor = tensor.clone().reshape(-1)
    if len(tensor):
        tensor[rng.randrange(len(tensor))] = value if tensor.is_floating_point() else 127
    return tensor


OTHERWISE: list[Callable[[Tensor, random.Random], Tensor | None]] = [
    lambda t, r: None,
    lambda t, r: t.new_zeros(0),
    lambda t, r: t.reshape(-1)[:1].reshape(()).clone() if t.numel() else t,
    lambda t, r: torch.cat([t.reshape(-1), t.reshape(-1)]),
    lambda t, r: t[None],
    lambda t, r: t.t().clone() if t.dim() == 2 else t.flip(0) if t.dim() else t,
    lambda t, r: (
        t.expand(*[1000] * max(0, 3 - t.dim()), *t.shape).clone()[:1000] if t.numel() < 10 else t
    ),
    lambda t, r: t.to(torch.int64),
    lambda t, r: t.to(torch.float64),
    lambda t, r: t.to(torch.bool),
    lambda t, r: _somewhere(t, r, float("nan")).view(t.shape),
    lambda t, r: _somewhere(t, r, float("inf")).view(t.shape),
    lambda t, r: _somewhere(t, r, 3e38).view(t.shape),
    lambda t, r: t.neg() if t.dtype != torch.bool else t,
]


def use_manifold(path: Path) -> None:
    """What a user does with a manifold: look into it, take a network, write and read it.

    Raises:
        Wrong: a network whose outputs are not numbers is given as if nothing were the matter.

    """
    loaded = load(path)
    describe(path)
    network = export_network(loaded, path.with_name("half.pt"), 0.5)
    again = load(network.path)
    size = loaded.input_size
    outputs = again(torch.randn(2, *size, generator=torch.Generator().manual_seed(0)))
    if not bool(outputs.isfinite().all()):
        raise Wrong("a network that gives no numbers was exported")


# Recipes

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(12)
)
TEXTS = {
    "a bomb as the whole": BOMB,
    "a bomb as the name": BOMB + "name: *m\nmodel: {arch: lenet_digits}\n",
    "a bomb as a list of numbers": BOMB + "name: x\nmodel: {arch: lenet_digits}\n"
    "fit: {anchors: *m}\n",
    "a bomb in the arguments": BOMB + "name: x\nmodel: {arch: lenet_digits, kwargs: {a: *m}}\n",
    "a bomb of merged mappings": "a: &a {x: 1}\n"
    + "".join(f"b{n}: &b{n} {{<<: [{', '.join(['*a'] * 2000)}]}}\n" for n in range(50)),
    "a mapping that holds itself": "name: x\nmodel: &m {arch: lenet_digits, kwargs: {a: *m}}\n",
    "a list that holds itself": "name: x\nmodel: {arch: lenet_digits}\nscope: &s [*s]\n",
    "brackets": "[" * 100_000,
    "braces": "{a: " * 20_000,
    "dashes": "- " * 50_000,
    "indents": "".join(" " * n + "a:\n" for n in range(3000)),
    "digits": "seed: " + "9" * 10_000,
    "digits in another base": "seed: 0x" + "f" * 100_000,
    "sixty": "seed: 1" + ":59" * 10_000,
    "a day that is none": "name: 2020-99-99",
    "an hour that is none": "name: 2020-01-01 99:99:99",
    "bytes that are none": "name: !!binary '%%%'",
    "an object": "name: !!python/object/apply:os.system ['touch hacked']",
    "a module": "name: !!python/module:antigravity",
    "a tag": "name: !unknown x",
    "a set": "name: !!set {a, b}",
    "pairs": "name: !!pairs [a: b]",
    "a key that is a list": "? [a, b]\n: c",
    "a key that is a mapping": "? {a: b}\n: c",
    "a key that is a number": "1: 2",
    "a key that is nothing": "~: 2",
    "the same key twice": "name: a\nname: b\nmodel: {arch: lenet_digits}",
    "two documents": "name: a\n---\nname: b",
    "a name that is a path": "name: ../../../../etc/x\nmodel: {arch: lenet_digits}",
    "a name of many letters": f"name: {'x' * 5000}\nmodel: {{arch: lenet_digits}}",
    "a name with a null": 'name: "a\\0b"\nmodel: {arch: lenet_digits}',
    "a base that is this file": "base: x.yaml",
    "a base up many folders": "base: ../../../../../../../../etc/passwd.yaml",
    "a base that is a folder": "base: .yaml",
    "a base that is a list": "base: [a, b]",
    "a base of many letters": f"base: {'x' * 5000}.yaml",
    "a base with a null": 'base: "a\\0.yaml"',
    "a checkpoint with a null": 'name: x\nmodel: {arch: lenet_digits, checkpoint: "a\\0.pth"}',
    "a checkpoint that is a device": "base: digits_lenet\nname: x\nmodel: {checkpoint: /dev/zero}",
    "data with a null": 'base: digits_lenet\nname: x\ndata: {format: image_folder, root: "a\\0"}',
    "data that are a device": "base: digits_lenet\nname: x\n"
    "data: {format: image_folder, root: /dev/null}",
    "a task with a path": "base: digits_lenet\nname: x\ntask: '../os:system'",
    "code as an architecture": "name: x\nmodel: {arch: 'os:system', checkpoint: x.pth}",
    "nothing": "",
    "a null": "\0",
    "a word": "hello",
    "not UTF-8": "\udcff\udcfe",
}
FIELDS = [  # of a recipe whose fit begins within a second; none gives its file a name to write to
    *(f"fit.{f}" for f in ("epochs", "batch_size", "accumulate", "learning_rate", "rising_steps")),
    *(f"fit.{f}" for f in ("ema", "gamma_power", "mixed", "mixed_power", "drawn_weight", "update")),
    *(f"fit.{f}" for f in ("warmup_steps", "clip", "views", "save_steps", "limit", "precision")),
    *("fit.gamma", "fit.mixed_gamma", "fit.anchors", "fit.anchor_shares", "seed", "scope", "task"),
    *(f"loss.{f}" for f in ("task", "recon", "reg", "distill", "temperature", "hint")),
    *("noise.samples", "noise.channels", "noise.sizes", "noise.precision", "norm.images"),
    *("inr.kind", "inr.knots", "inr.knot_rates", "inr.store", "norm.quality", "norm.fold"),
    *("model.arch", "model.input_size", "model.num_classes", "model.kwargs", "model.heads"),
    *("data.mean", "data.std", "data.image_size", "data.crop_padding", "data.format", "data.flip"),
    *("eval.gammas", "eval.watch", "eval.watch_gammas", "eval.limit", "permute.solver"),
    *("permute.seed", "permute.time_limit", "compare.methods", "compare.images"),
]
VALUES = [*STRANGE, *HUGE, [1e30], [-1.0], [0.5] * MODEST, [float("nan")], [[0, 0]], "9" * 30]


def recipes(count: int, seed: int = 0) -> Iterator[tuple[str, Make]]:
    """Cases by name: texts that readers choke on, recipes that ship damaged, strange values."""
    rng = random.Random(seed)
    shipped = [path.read_bytes() for path in recipe_files().values()]
    fixed = list(TEXTS.items())
    for number in range(count):
        if number < len(fixed):
            name, text = fixed[number]
            content = text.encode("utf-8", "surrogateescape")
        elif number % 4 == 0:
            name, content = f"damaged {number}", damaged(rng.choice(shipped), rng)
        else:
            field, value = rng.choice(FIELDS), rng.choice(VALUES)
            name = f"{field} = {str(value)[:40]}"
            content = yaml.safe_dump(_recipe_with(field, value)).encode()
        yield name, _file_of(content)


def _recipe_with(field: str, value: Any) -> dict[str, Any]:
    section, _, last = field.rpartition(".")
    content: dict[str, Any] = {"base": "digits_lenet", "name": "x"}
    return content | ({section: {last: value}} if section else {last: value})


def _file_of(content: bytes) -> Make:
    def make(folder: Path) -> Path:
        path = folder / "x.yaml"
        path.write_bytes(content)
        return path

    return make


def use_recipe(path: Path) -> Recipe:
    """Read it, and read again what it says.

    Raises:
        Wrong: that is something else.

    """
    recipe = load_recipe(str(path))
    again = path.with_name("again.yaml")
    again.write_text(recipe.as_yaml(), encoding="utf-8")
    if load_recipe(str(again)).as_yaml() != recipe.as_yaml():
        raise Wrong("a recipe that is written and read is another one")
    return recipe


# Families

INDEXES: dict[str, Any] = {
    "paths above": {"networks": [{"file": "../outside.txt"}, {"file": "../../outside.txt"}]},
    "a whole path": {"networks": [{"file": "OUTSIDE"}]},
    "all of a user's": {"networks": [{"file": f} for f in ("mine", "notes.txt", "width-1.pt")]},
    "dots": {"networks": [{"file": "."}, {"file": ".."}, {"file": ""}]},
    "no text": {"networks": [{"file": None}, {"file": 1}, {"file": ["x"]}, {"file": {"a": 1}}]},
    "a null": {"networks": [{"file": "a\0b"}]},
    "many letters": {"networks": [{"file": "x" * 100_000}]},
    "many": {"networks": [{"file": f"{n}.pt"} for n in range(20_000)]},
    "negative": {"networks": -1},
    "huge": {"networks": 10**30},
    "a text": {"networks": "width-1.pt"},
    "nothing": {},
    "a list": [],
    "a number": 1,
}
RAW_INDEXES = {
    "brackets": b"[" * 200_000,
    "braces": b'{"networks":' * 50_000,
    "digits": b'{"networks": ' + b"9" * 10_000 + b"}",
    "not UTF-8": b"\xff\xfe",
    "empty": b"",
    "no JSON": b"{",
    "infinite": b'{"networks": [{"file": Infinity}]}',
}
MEMBER = "width-1.pt"  # of the family that is there
KEEPSAKE = "what a user keeps"


def families() -> Iterator[tuple[str, bytes]]:
    """Indexes of a family by name, those that list files also with the family's own among them."""
    for name, document in INDEXES.items():
        yield name, json.dumps(document).encode()
        if isinstance(document, dict) and isinstance(document.get("networks"), list):
            files = [*document["networks"], {"file": MEMBER}]
            yield f"{name}, and a family's", json.dumps({"networks": files}).encode()
    yield from RAW_INDEXES.items()


def use_family(
    manifold: Path, index: bytes, folder: Path, linked: bool = False, shared: bool = True
) -> None:
    """Write a family where there is one with a strange index, and things of a user's.

    Args:
        manifold: a file.
        index: what the index says.
        folder: an empty one.
        linked: whether the family's folder is a link to another one.
        shared: whether it holds things of a user's too, so that nothing may be replaced.

    Raises:
        Wrong: something of the user's is gone.
        Half: something is left that is no family.

    """
    family, outside = folder / "family", folder / "outside.txt"
    place = folder / "elsewhere" if linked else family
    place.mkdir()
    if linked:
        family.symlink_to(place)
    kept = [outside]
    if shared:
        (place / "mine").mkdir()
        kept += [place / "mine" / "photo.txt", place / "notes.txt"]
    for path in kept:
        path.write_text(KEEPSAKE)
    (place / MEMBER).write_bytes(b"earlier")
    (place / "index.json").write_bytes(index.replace(b"OUTSIDE", os.fsencode(outside)))
    try:
        export_family(Choice(load(manifold), Wish()), family, [0.5])
    finally:
        lost = [path.name for path in kept if not path.exists() or path.read_text() != KEEPSAKE]
        if lost:
            raise Wrong(f"gone: {', '.join(lost)}")
        left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
        if left:
            raise Half(f"left behind: {', '.join(left)}")


# Run folders


def run_files(run: Path) -> list[Path]:
    """The files of a finished run that a later command reads."""
    names = ("recipe.yaml", "report/table.json", "manifold.safetensors", "metrics.jsonl")
    return [run / name for name in names]


def use_damaged_run(run: Path, folder: Path, which: Path, content: bytes) -> None:
    """Write the report of a run one of whose files is damaged."""
    from neumeta_cli.compare import read_run
    from neumeta_cli.compare.report import write_report

    copy = folder / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("state.pt"))
    (copy / which.relative_to(run)).write_bytes(content)
    page = write_report(read_run(copy), copy, copy / "page")
    if not page.read_text("utf-8").rstrip().endswith("</html>"):
        raise Half(f"{page.name} is not whole")

"""A transformer of your own: rotary positions, grouped queries, tied embeddings; half as wide.

It reads sixteen letters and says them again, each moved on by three places in the alphabet. The
recipe beside this file names ``own_transformer:Echo`` and ``own_transformer:network``. In this
folder,

    neumeta train --recipe own_transformer.yaml -o echo.safetensors
    neumeta fit --recipe own_transformer.yaml --checkpoint echo.safetensors
    neumeta export --width 0.5 --trust-code -o small.onnx

or all of it from Python: ``python examples/own_transformer.py``.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
import torchmetrics
from torch import Tensor, nn

import neumeta_cli
from neumeta_cli import Images, Metric, Task

LETTERS, HALF = 26, 16
RECIPE = Path(__file__).with_suffix(".yaml")


class Echo(Task):
    """Networks give scores of the next letter, (B, 2 · HALF, LETTERS); the second half counts."""

    metrics: ClassVar = (Metric("letters right"),)

    @classmethod
    def load(cls, data, split, input_size, reporter=None) -> Images:
        """Letters drawn at random, as pictures of one row: (n, 1, 1, 2 · HALF) uint8."""
        count, seed = (4000, 0) if split == "train" else (500, 1)
        generator = torch.Generator().manual_seed(seed)
        said = torch.randint(LETTERS, (count, HALF), generator=generator)
        text = torch.cat([said, (said + 3) % LETTERS], 1)
        return Images(text[:, HALF:], (), text[:, None, None].byte(), image_size=(1, 2 * HALF))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(echoed(outputs).flatten(0, 1), targets.flatten())

    def divergence(self, outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        ours, theirs = (
            F.log_softmax(echoed(scores) / temperature, 2).flatten(0, 1)
            for scores in (outputs, teacher)
        )
        return F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2

    def meters(self) -> Mapping[str, torchmetrics.Metric]:
        return {"letters right": torchmetrics.MeanMetric()}

    def predictions(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor]:
        return ((echoed(outputs).argmax(2) == targets).float(),)


def echoed(scores: Tensor) -> Tensor:
    """Of the scores of the next letter, those of the second half."""
    return scores[:, HALF - 1 : -1]


class Attention(nn.Module):
    """Causal, with twice as many heads of queries as of keys and values, rotated by place."""

    def __init__(self, width: int, heads: int, head: int) -> None:
        super().__init__()
        self.head = head
        self.query = nn.Linear(width, heads * head, bias=False)
        self.key = nn.Linear(width, heads // 2 * head, bias=False)
        self.value = nn.Linear(width, heads // 2 * head, bias=False)
        self.out = nn.Linear(heads * head, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(2, (-1, self.head)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        q, k = rotated(q), rotated(k)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


def rotated(x: Tensor) -> Tensor:
    """Pairs of numbers of each head turned by an angle that grows with the place: (B, H, T, D)."""
    half = x.shape[3] // 2
    rates = 100 ** -(torch.arange(half, device=x.device) / half)
    angles = torch.arange(x.shape[2], device=x.device)[:, None] * rates
    one, other = x[..., :half], x[..., half:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([one * cos - other * sin, one * sin + other * cos], 3)


class Block(nn.Module):
    """Attention and a gated feed-forward, each on what a norm gives, and added."""

    def __init__(self, width: int, heads: int, head: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.attention = Attention(width, heads, head)
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Transformer(nn.Module):
    """Letters in pictures of one row, (B, 1, 1, T), to scores of the next one, (B, T, LETTERS)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(LETTERS, 32)
        self.blocks = nn.ModuleList(Block(32, 4, 8, 64) for _ in range(2))
        self.norm = nn.RMSNorm(32)
        self.read = nn.Linear(32, LETTERS, bias=False)
        self.read.weight = self.embedding.weight  # tied
        nn.init.normal_(self.embedding.weight, std=0.3)

    def forward(self, x: Tensor) -> Tensor:
        letters = x.flatten(1).round().long().clamp(0, LETTERS - 1)  # noise is tried too
        x = self.embedding(letters)
        for block in self.blocks:
            x = block(x)
        return self.read(self.norm(x))


def network() -> nn.Module:
    """The factory that the recipe names."""
    return Transformer()


def main() -> None:
    """Train the network, fit a manifold to it, and use networks that the fit never saw."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder, "echo.pt")
        recipe = neumeta_cli.load_recipe(str(RECIPE), [f"model.checkpoint={checkpoint}"])
        model = neumeta_cli.recipe_arch(recipe).build("cpu")
        task = neumeta_cli.load_task(recipe.data, model, (1, 1, 2 * HALF), kind=Echo)
        neumeta_cli.train_network(model, task, recipe.train)
        torch.save(model.state_dict(), checkpoint)
        run = neumeta_cli.run_recipe(recipe, Path(folder, "run"))
        for row in run.rows:
            print(f"{row.method:12} width {row.width:<5g} {row.metrics['letters right']:7.2%}")
        path = run.folder / "manifold.safetensors"
        manifold = neumeta_cli.load(path, trust_code=True)  # it names code of yours
        small = manifold.sample(0.6)
        tied = small.read.weight is small.embedding.weight
        print(f"at width 0.6: {task.evaluate(small):.2%}, tied: {tied}")


if __name__ == "__main__":
    from own_transformer import main  # the module that the recipe names, not a second copy of it

    main()

"""Small networks drawn at random: convolutions, norms, branches, gates and attention."""

import math
import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 5
SIZES = ((3, 16, 16), (1, 12, 12), (3, 12, 20), (4, 16, 16))


def network(seed: int) -> nn.Module:
    """A factory for ``package.module:factory``; the seed says which network, not its weights."""
    return Drawn(random.Random(seed))


def input_size(seed: int) -> tuple[int, int, int]:
    return random.Random(seed).choice(SIZES)


class Drawn(nn.Module):
    """A stem, some blocks and a head."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        size = rng.choice(SIZES)
        self.style = Style(rng)
        width = rng.choice([8, 12, 16])
        stride = 2 if self.style.halves(0.5) else 1
        self.stem = convolution(self.style, size[0], width, rng.choice([3, 5]), stride)
        blocks: list[nn.Module] = []
        for _ in range(rng.randint(2, 3)):
            make = rng.choice(BLOCKS)
            wider = rng.choice([width, width, width + 4, 2 * width])
            blocks.append(make(self.style, width, min(wider, 32)))
            width = blocks[-1].width  # type: ignore[assignment]
        self.blocks = nn.Sequential(*blocks)
        self.head = head(self.style, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


class Style:
    """What a network has everywhere: its norm, its activation, and the draws of the rest."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self._halvings = rng, 2
        self.norms = rng.choice(["batch", "batch", "batch", "group", "layer", "instance", "none"])
        self.activations = rng.choice(["relu", "gelu", "silu", "hardswish", "leaky", "prelu"])

    def halves(self, chance: float = 1.0) -> bool:
        """Whether a layer may halve the image, of which enough pixels stay for every norm."""
        halves = self._halvings > 0 and self.rng.random() < chance
        self._halvings -= halves
        return halves

    def norm(self, channels: int) -> nn.Module:
        if self.norms == "batch":
            return nn.BatchNorm2d(channels)
        if self.norms == "group":
            return nn.GroupNorm(math.gcd(self.rng.choice([1, 2, 4]), channels), channels)
        if self.norms == "layer":
            return ChannelNorm(channels)
        if self.norms == "instance":
            return nn.InstanceNorm2d(channels, affine=self.rng.random() < 0.5)
        return nn.Identity()

    def activation(self, channels: int) -> nn.Module:
        made: dict[str, Callable[[], nn.Module]] = {
            "relu": lambda: nn.ReLU(inplace=self.rng.random() < 0.5),
            "gelu": nn.GELU,
            "silu": nn.SiLU,
            "hardswish": nn.Hardswish,
            "leaky": lambda: nn.LeakyReLU(0.1),
            "prelu": lambda: nn.PReLU(self.rng.choice([1, channels])),
        }
        return made[self.activations]()


class ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of each pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convolution(
    style: Style, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """A convolution, its norm and its activation, in one of two orders."""
    bias = style.norms == "none" or style.rng.random() < 0.3
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias)
    if style.rng.random() < 0.2:
        return nn.Sequential(conv, style.activation(outputs), style.norm(outputs))
    return nn.Sequential(conv, style.norm(outputs), style.activation(outputs))


class Plain(nn.Module):
    """One convolution, and perhaps a pool."""

    def __init__(self, style: Style, inputs: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.conv = convolution(style, inputs, width, style.rng.choice([1, 3]))
        pools = [nn.Identity(), nn.AvgPool2d(3, 1, 1)]
        halved = style.halves(0.3)
        self.pool = nn.MaxPool2d(2, ceil_mode=True) if halved else style.rng.choice(pools)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(x))


class Residual(nn.Module):
    """Two convolutions beside a shortcut, which is a layer where sizes change."""

    def __init__(self, style: Style, inputs: int, width: int) -> None:
        super().__init__()
        self.width, stride = width, 2 if style.halves(0.3) else 1
        inner = style.rng.choice([width, width // 2, 2 * width])
        self.one = convolution(style, inputs, inner, 3, stride)
        self.two = nn.Sequential(nn.Conv2d(inner, width, 3, 1, 1), style.norm(width))
        self.shortcut: nn.Module = nn.Identity()
        if inputs != width or stride > 1:
            self.shortcut = nn.Conv2d(inputs, width, 1, stride)
        self.activation = style.activation(width)
        self.scale = nn.Parameter(torch.ones(width, 1, 1)) if style.rng.random() < 0.3 else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.two(self.one(x))
        y = y if self.scale is None else self.scale * y
        return self.activation(self.shortcut(x) + y)


class Inverted(nn.Module):
    """Wider, depthwise, gated by its own mean, narrow again."""

    def __init__(self, style: Style, inputs: int, width: int) -> None:
        super().__init__()
        self.width, wide = width, 2 * inputs
        self.expand = convolution(style, inputs, wide, 1)
        self.depthwise = convolution(style, wide, wide, style.rng.choice([3, 5]), 1, wide)
        self.gate: nn.Module | None = None
        if style.rng.random() < 0.6:
            few = max(4, wide // 4)
            layers = [nn.Conv2d(wide, few, 1), nn.ReLU(), nn.Conv2d(few, wide, 1), nn.Sigmoid()]
            self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), *layers)
        self.project = nn.Sequential(nn.Conv2d(wide, width, 1, bias=False), style.norm(width))
        self.same = inputs == width

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.expand(x))
        y = y if self.gate is None else y * self.gate(y)
        y = self.project(y)
        return x + y if self.same else y


class Branches(nn.Module):
    """Several ways through, laid side by side; the input itself may be one of them."""

    def __init__(self, style: Style, inputs: int, width: int) -> None:
        super().__init__()
        self.keeps = style.rng.random() < 0.4
        widths = [style.rng.choice([4, 6, 8]) for _ in range(style.rng.randint(2, 3))]
        kernels = [style.rng.choice([1, 3, 5]) for _ in widths]
        ways = zip(widths, kernels, strict=True)
        self.ways = nn.ModuleList([convolution(style, inputs, w, k) for w, k in ways])
        self.width = sum(widths) + (inputs if self.keeps else 0)

    def forward(self, x: Tensor) -> Tensor:
        made = [way(x) for way in self.ways]
        return torch.cat([x, *made] if self.keeps else made, 1)


class Grouped(nn.Module):
    """A grouped convolution, its channels perhaps shuffled between groups."""

    def __init__(self, style: Style, inputs: int, width: int) -> None:
        super().__init__()
        self.groups = style.rng.choice([2, 4])
        self.width = width - width % self.groups
        self.enter = convolution(style, inputs, self.width, 1)
        self.conv = convolution(style, self.width, self.width, 3, 1, self.groups)
        self.shuffles = style.rng.random() < 0.5

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.enter(x))
        if self.shuffles:
            b, c, h, w = y.shape
            y = y.view(b, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(b, c, h, w)
        return y


class Gated(nn.Module):
    """Half of the channels gates the other half."""

    def __init__(self, style: Style, inputs: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.conv = nn.Conv2d(inputs, 2 * width, 3, 1, 1)
        self.chunks = style.rng.random() < 0.5

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if not self.chunks:
            return F.glu(y, 1)
        one, two = y.chunk(2, 1)
        return one * torch.tanh(two)


class Attention(nn.Module):
    """Attention among pixels and a feed-forward layer, torch's own or written out."""

    def __init__(self, style: Style, inputs: int, width: int) -> None:
        super().__init__()
        self.heads = style.rng.choice([1, 2, 4])
        self.width = width - width % self.heads
        stride = 2 if style.halves() else 1
        self.enter = nn.Conv2d(inputs, self.width, stride, stride)
        self.one, self.two = nn.LayerNorm(self.width), nn.LayerNorm(self.width)
        self.whole = style.rng.random() < 0.4
        if self.whole:
            self.attention = nn.MultiheadAttention(self.width, self.heads, batch_first=True)
        else:
            self.qkv = nn.Linear(self.width, 3 * self.width, bias=style.rng.random() < 0.5)
            self.out = nn.Linear(self.width, self.width)
        wide = 2 * self.width
        layers = [nn.Linear(self.width, wide), nn.GELU(), nn.Linear(wide, self.width)]
        self.feed = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.enter(x)
        tokens = maps.flatten(2).transpose(1, 2)
        tokens = tokens + self.attend(self.one(tokens))
        tokens = tokens + self.feed(self.two(tokens))
        return tokens.transpose(1, 2).unflatten(2, maps.shape[2:])

    def attend(self, x: Tensor) -> Tensor:
        if self.whole:
            return self.attention(x, x, x, need_weights=False)[0]
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(b, n, -1))


class Down(nn.Module):
    """Smaller and larger again, added to what was there, as in a U-Net."""

    def __init__(self, style: Style, inputs: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.enter = convolution(style, inputs, width, 1)
        self.inner = convolution(style, width, 2 * width, 3, 2)
        self.up: nn.Module | None = None
        if style.rng.random() < 0.5:
            self.up = nn.ConvTranspose2d(2 * width, width, 2, 2)
        else:
            self.back = nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        y = self.inner(x)
        if self.up is not None:
            y = self.up(y)[..., : x.shape[2], : x.shape[3]]
        else:
            y = F.interpolate(self.back(y), size=x.shape[2:], mode="nearest")
        return x + y


BLOCKS = (Plain, Residual, Residual, Inverted, Branches, Grouped, Gated, Attention, Down)


class Tokens(nn.Module):
    """Pixels as tokens, and their mean."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.flatten(2).transpose(1, 2)).mean(1)


def head(style: Style, width: int) -> nn.Sequential:
    """Pooled in one of several ways, then one or two linear layers."""
    ways: list[list[nn.Module]] = [
        [nn.AdaptiveAvgPool2d(1), nn.Flatten()],
        [nn.AdaptiveMaxPool2d(1), nn.Flatten()],
        [nn.AdaptiveAvgPool2d(2), nn.Flatten()],
        [Tokens(width)],
    ]
    way = style.rng.randrange(len(ways))
    inputs = 4 * width if way == 2 else width
    layers = ways[way]
    if style.rng.random() < 0.3:
        inner = style.rng.choice([16, 24])
        layers += [nn.Linear(inputs, inner), nn.ReLU(), nn.Dropout(0.1)]
        inputs = inner
    return nn.Sequential(*layers, nn.Linear(inputs, CLASSES))

"""The networks of flow matching and diffusion: the U-Net of EDM for pictures, an MLP for vectors.

Both take (x, level, labels): x (N, *data_shape), the noise level of each sample, and its class. The label `classes`,
one more than there are, stands for no class.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.parts.attention import Attention
from models.parts.layers import at_least_float32

SKIP_SCALE = math.sqrt(0.5)
"""A sum of two branches of variance 1, times this, has variance 1 again (Song et al. 2021, appendix H)."""


def positions(level: Tensor, channels: int, slowest: float = 1e-4, fastest: float = 1.0) -> Tensor:
    """Cosines and sines (N, channels) of levels (N,), with frequencies spaced evenly in the logarithm.

    Vaswani et al. 2017, section 3.5, including both ends of the range, as Ho et al. 2020 do. Never in 16 bits.
    """
    level = at_least_float32(level)
    exponents = torch.linspace(0, 1, channels // 2, device=level.device, dtype=level.dtype)
    angles = level[:, None] * (fastest * (slowest / fastest) ** exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def label_vectors(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """One-hot labels (N, classes) of variance about 1; zeros for the label `classes`, which stands for none."""
    return F.one_hot(labels, classes + 1)[:, :classes].to(dtype) * math.sqrt(classes)


def initialized(layer: nn.Conv2d | nn.Linear, gain: float = 1.0) -> nn.Conv2d | nn.Linear:
    """The layer with Xavier's uniform weights times `gain`, and zero biases (Karras et al. 2022, table 7: DDPM++)."""
    nn.init.xavier_uniform_(layer.weight, gain) if gain else nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def convolution(inputs: int, outputs: int, kernel: int, gain: float = 1.0) -> nn.Module:
    return initialized(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), gain)


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """Groups of at least four channels, at most 32 groups; fewer if the channels are not divisible."""
    return nn.GroupNorm(math.gcd(min(32, max(channels // 4, 1)), channels), channels, eps)


def resampled(x: Tensor, change: str) -> Tensor:
    """Halves or doubles the side, with a box filter, for "down" or "up"."""
    if change == "down":
        return F.avg_pool2d(x, 2)
    return F.interpolate(x, scale_factor=2.0, mode="nearest") if change == "up" else x


class Attending(nn.Module):
    """Self-attention over places with one head: x + attention(norm(x))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, 1e-6)
        project, out = convolution(channels, 3 * channels, 1, math.sqrt(0.2)), convolution(channels, channels, 1, 0.0)
        self.attention = Attention(project, out)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(self.norm(x))


class Block(nn.Module):
    """A residual block of Karras et al. 2022, figure 9 (right), with a box as the only resampling filter.

    `change` is "down", "up" or "keep": resampling by two. `embedding` is the size of the vector that holds level and
    label. With `adaptive_scale` it scales and shifts normalised features (Dhariwal & Nichol 2021); otherwise it is
    added before the norm. Dropout comes before the second convolution, self-attention, if any, last.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        dropout: float,
        change: str = "keep",
        attention: bool = False,
        adaptive_scale: bool = False,
    ) -> None:
        super().__init__()
        self.change, self.adaptive_scale, self.dropout = change, adaptive_scale, dropout
        self.norm0 = group_norm(inputs, 1e-6)
        self.conv0 = convolution(inputs, outputs, 3)
        self.affine = initialized(nn.Linear(embedding, outputs * (1 + adaptive_scale)))
        self.norm1 = group_norm(outputs, 1e-6)
        self.conv1 = convolution(outputs, outputs, 3, 0.0)
        plain = inputs == outputs and change == "keep"
        self.skip = nn.Identity() if plain else convolution(inputs, outputs, 1)
        self.attention = Attending(outputs) if attention else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        inner = self.conv0(resampled(F.silu(self.norm0(x)), self.change))
        condition = self.affine(embedding)[:, :, None, None]
        if self.adaptive_scale:
            scale, shift = condition.chunk(2, dim=1)
            inner = F.silu(self.norm1(inner) * (1 + scale) + shift)
        else:
            inner = F.silu(self.norm1(inner + condition))
        inner = self.conv1(F.dropout(inner, self.dropout, self.training))
        x = (self.skip(resampled(x, self.change)) + inner) * SKIP_SCALE
        return x if self.attention is None else self.attention(x) * SKIP_SCALE


class UNet(nn.Module):
    """The DDPM++ of Karras et al. 2022, appendix C and table 7; its output is zero at first.

    Arguments as in `FlowMatching`, whose defaults give EDM's 55.7 million parameters for 3 channels and 32 px; there is
    one block more per resolution on the way up. `classes` is 0 for none. EDM's outputs start at 1e-5 of their usual
    size and not at zero, and EDM has an input for augmentation parameters.

    Raises:
        ValueError: the side is not divisible by 2 for each multiplier but the first, or no feature has a side that
            `attention` names.
    """

    def __init__(
        self,
        channels: int,
        resolution: int,
        width: int,
        multipliers: Sequence[int],
        blocks: int,
        attention: Sequence[int],
        dropout: float,
        adaptive_scale: bool,
        classes: int,
    ) -> None:
        super().__init__()
        halvings = len(multipliers) - 1
        if resolution % 2**halvings:
            raise ValueError(
                f"{len(multipliers)} multipliers halve the side {halvings} times, and {resolution} is not divisible by "
                f"{2**halvings}: set data.resolution, or fewer model.multipliers"
            )
        sides = [resolution >> level for level in range(len(multipliers))]
        if wrong := [side for side in attention if side not in sides]:
            raise ValueError(f"attention at {wrong[0]} px: the features have sides {sides}; set model.attention")
        self.width, self.classes = width, classes
        embedding = 4 * width
        self.label = initialized(nn.Linear(classes, width)) if classes else None
        self.embed0 = initialized(nn.Linear(width, embedding))
        self.embed1 = initialized(nn.Linear(embedding, embedding))

        def block(inputs: int, outputs: int, change: str = "keep", attend: bool = False) -> Block:
            return Block(inputs, outputs, embedding, dropout, change, attend, adaptive_scale)

        self.first = convolution(channels, width, 3)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        features, kept = width, [width]
        for level, (side, multiplier) in enumerate(zip(sides, multipliers, strict=True)):
            if level:
                self.down.append(block(features, features, "down"))
                kept.append(features)
            for _ in range(blocks):
                self.down.append(block(features, width * multiplier, attend=side in attention))
                features = width * multiplier
                kept.append(features)
        self.middle = nn.ModuleList([block(features, features, attend=True), block(features, features)])
        # Which blocks on the way up take a feature from the way down.
        self.joins: list[bool] = []
        for level, (side, multiplier) in reversed(list(enumerate(zip(sides, multipliers, strict=True)))):
            if level < halvings:
                self.up.append(block(features, features, "up"))
                self.joins.append(False)
            for i in range(blocks + 1):
                self.up.append(
                    block(features + kept.pop(), width * multiplier, attend=i == blocks and side in attention)
                )
                self.joins.append(True)
                features = width * multiplier
        self.last_norm = group_norm(features, 1e-6)
        self.last = convolution(features, channels, 3, 0.0)

    def forward(self, x: Tensor, level: Tensor, labels: Tensor) -> Tensor:
        vector = positions(level, self.width)
        if self.label is not None:
            vector = vector + self.label(label_vectors(labels, self.classes, vector.dtype))
        embedding = F.silu(self.embed1(F.silu(self.embed0(vector))))
        x = self.first(x)
        kept = [x]
        for layer in self.down:
            x = layer(x, embedding)
            kept.append(x)
        for layer in self.middle:
            x = layer(x, embedding)
        for layer, joins in zip(self.up, self.joins, strict=True):
            x = layer(torch.cat([x, kept.pop()], dim=1) if joins else x, embedding)
        x = self.last(F.silu(self.last_norm(x)))
        return at_least_float32(x)


class MLP(nn.Module):
    """A residual network for vectors (N, size) that sees the level in every layer; its output is zero at first."""

    FEATURES = 32
    """Cosines and sines of the level, with periods from 100 to 1."""
    INPUT_SCALE = 6.0
    """Densities of points are narrow where velocities are steep, and a network with inputs near 0 learns that slowly.
    Tried on two moons and eight Gaussians, 1,500 kimg each: 1 leaves a divergence of 0.28 and 0.17 nats from the truth,
    4 leaves 0.06 and 0.05, 8 leaves 0.04 and 0.06."""

    def __init__(self, size: int, width: int, blocks: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.first = nn.Linear(size, width)
        self.shifts = nn.ModuleList(nn.Linear(self.FEATURES + classes, width) for _ in range(blocks))
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.last = initialized(nn.Linear(width, size), 0.0)

    def forward(self, x: Tensor, level: Tensor, labels: Tensor) -> Tensor:
        features = positions(level, self.FEATURES, 0.02 * math.pi, 2 * math.pi).to(x.dtype)
        if self.classes:
            features = torch.cat([features, label_vectors(labels, self.classes, x.dtype)], dim=1)
        inner = self.first(self.INPUT_SCALE * x)
        for layer, shift in zip(self.layers, self.shifts, strict=True):
            inner = inner + layer(F.silu(inner + shift(features)))
        return at_least_float32(self.last(F.silu(inner)))

"""Invertible layers whose Jacobians have cheap determinants; the networks inside are in `flow_networks`.

Dinh, Sohl-Dickstein & Bengio 2017 (RealNVP, arXiv:1605.08803); Kingma & Dhariwal 2018 (Glow, arXiv:1807.03039).

The data's path through the layers, and every determinant, is in float32 at least, whatever autocast says. Only the
networks that compute scales and shifts may use 16 bits. Pictures are (N, C, H, W), vectors (N, C).
"""

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from models.parts.layers import at_least_float32


class Invertible(nn.Module, ABC):
    """A bijection of each sample by itself."""

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The image y of x (N, ...), and log |det| of the Jacobian, (N,)."""

    @abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        """The x whose `forward` is y."""


class Chain(Invertible):
    """Layers one after another."""

    def __init__(self, layers: Sequence[Invertible]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(len(x))
        for layer in self.layers:
            x, log_det = layer(x)
            total = total + log_det
        return x, total

    def inverse(self, y: Tensor) -> Tensor:
        for layer in reversed(self.layers):
            assert isinstance(layer, Invertible)
            y = layer.inverse(y)
        return y


class ActNorm(Invertible):
    """(x + bias) * exp(log_scale) per channel, set so that the first batch leaves with mean 0 and variance 1.

    Section 3.1 of Glow. The first forward pass inside `initializing` sets it, once and for all: `initialized` is a
    buffer, so neither a resumed nor a fine-tuned run sets it again.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.pending = False
        self.initialized: Tensor
        self.register_buffer("initialized", torch.zeros((), dtype=torch.uint8))

    @torch.no_grad()
    def sees(self, x: Tensor) -> None:
        """Sets itself from x (N, C, ...) if it is due."""
        if not self.pending or self.initialized:
            return
        others = [axis for axis in range(x.ndim) if axis != 1]
        x = at_least_float32(x)
        self.bias.copy_(-x.mean(others))
        self.log_scale.copy_(-torch.log(x.var(others, correction=0).sqrt() + 1e-6))
        self.initialized.fill_(1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.sees(x)
        y = (x + _by_channel(self.bias, x)) * _by_channel(self.log_scale.exp(), x)
        return y, (self.log_scale.sum() * _positions(x)).expand(len(x))

    def inverse(self, y: Tensor) -> Tensor:
        return y * _by_channel((-self.log_scale).exp(), y) - _by_channel(self.bias, y)


@contextlib.contextmanager
def initializing(network: nn.Module) -> Iterator[None]:
    """Inside, a forward pass sets the ActNorms: each sees the output of those before it, already set."""
    layers = [module for module in network.modules() if isinstance(module, ActNorm)]
    try:
        for layer in layers:
            layer.pending = True
        yield
    finally:
        for layer in layers:
            layer.pending = False


class InvertibleLinear(Invertible):
    """A square matrix over the channels: the invertible 1x1 convolution of pictures, a linear layer of vectors.

    W = P L (U + diag(s)). L, U and log |s| are learned; the permutation P and the signs of s stay those of the random
    rotation that it starts with (section 3.2 of Glow, eq. 10 and 11).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64))[0]
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        kind = torch.get_default_dtype()
        self.permutation: Tensor
        self.sign: Tensor
        self.register_buffer("permutation", permutation.to(kind))
        self.register_buffer("sign", diagonal.sign().to(kind))
        self.lower = nn.Parameter(lower.tril(-1).to(kind))
        self.upper = nn.Parameter(upper.triu(1).to(kind))
        self.log_scale = nn.Parameter(diagonal.abs().log().to(kind))

    def factors(self) -> tuple[Tensor, Tensor]:
        """L and U + diag(s)."""
        one = torch.eye(len(self.sign), dtype=self.sign.dtype, device=self.sign.device)
        return self.lower.tril(-1) + one, self.upper.triu(1) + torch.diag(self.sign * self.log_scale.exp())

    def matrix(self) -> Tensor:
        """W, (channels, channels)."""
        with torch.autocast(self.sign.device.type, enabled=False):
            lower, upper = self.factors()
            return self.permutation @ (lower @ upper)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            y = (x.movedim(1, -1) @ self.matrix().T).movedim(-1, 1)  # no copy of channels_last pictures
        return y, (self.log_scale.sum() * _positions(x)).expand(len(x))

    def inverse(self, y: Tensor) -> Tensor:
        with torch.autocast(y.device.type, enabled=False):
            lower, upper = self.factors()
            last = y.movedim(1, -1)
            right = self.permutation.T @ last.reshape(-1, len(self.sign)).T
            right = torch.linalg.solve_triangular(lower, right, upper=False, unitriangular=True)
            x = torch.linalg.solve_triangular(upper, right, upper=True)
            return x.T.reshape(last.shape).movedim(-1, 1)


class Squeeze(Invertible):
    """(N, C, 2H, 2W) to (N, 4C, H, W): each 2x2 block becomes four times the channels (section 3.6 of RealNVP).

    The two pixels on the block's diagonal come first, so that the half that `Split` removes is a checkerboard of the
    pixels, as in RealNVP's code.
    """

    CORNERS = ((0, 0), (1, 1), (0, 1), (1, 0))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.cat([x[:, :, row::2, column::2] for row, column in self.CORNERS], dim=1)
        return y, x.new_zeros(len(x))

    def inverse(self, y: Tensor) -> Tensor:
        count, channels, height, width = y.shape
        x = y.new_empty(count, channels // 4, 2 * height, 2 * width)
        for part, (row, column) in zip(y.chunk(4, dim=1), self.CORNERS, strict=True):
            x[:, :, row::2, column::2] = part
        return x


class Logit(Invertible):
    """Values in [-1, 1] to the whole line: logit(alpha + (1 - 2 alpha) u), with u the value on [0, 1].

    Section 4.1 of RealNVP; its text has 1 - alpha, which makes the largest value infinite, its code 1 - 2 alpha.
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p = self.alpha + (1 - 2 * self.alpha) * (x + 1) / 2
        log_det = math.log(0.5 - self.alpha) - torch.log(p) - torch.log1p(-p)
        return torch.logit(p), log_det.flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        return (torch.sigmoid(y) - self.alpha) * (2 / (1 - 2 * self.alpha)) - 1


class GlowCoupling(Invertible):
    """Shifts and then scales the second part of the channels by functions of the first part, which stays.

    As in Glow's code: (b + shift) * sigmoid(s + 2), where its table 1 has exp(s) b + shift. Scales stay below 1, and
    here also above `least_scale`: the product of their inverses can otherwise grow beyond all numbers (Behrmann et al.
    2021, arXiv:2006.09347). The network maps the first part, (N, C - C // 2, ...), to (N, 2 (C // 2), ...), shifts
    and s.
    """

    def __init__(self, network: nn.Module, least_scale: float) -> None:
        super().__init__()
        self.network, self.least_scale = network, least_scale

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = _halves(x)
        shift, scale = self._of(a)
        return torch.cat([a, (b + shift) * scale], dim=1), scale.log().flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        a, b = _halves(y)
        shift, scale = self._of(a)
        return torch.cat([a, b / scale - shift], dim=1)

    def _of(self, a: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = at_least_float32(self.network(a)).chunk(2, dim=1)
        return shift, self.least_scale + (1 - self.least_scale) * torch.sigmoid(raw + 2)


class MaskedCoupling(Invertible):
    """Scales and then shifts what a mask leaves out, by functions of what it keeps (RealNVP, eq. 9).

    The mask is 1 where values stay, and broadcasts over (C, ...). The network maps (N, C, ...), with zeros where values
    change, to (N, 2C, ...). The log-scale is a tanh times a learned number per channel (its section 4.1), which starts
    at 1, and the network at zero.
    """

    def __init__(self, mask: Tensor, channels: int, network: nn.Module) -> None:
        super().__init__()
        self.mask: Tensor
        self.register_buffer("mask", mask)  # in checkpoints too: weights learned under it fit no other mask
        self.network = network
        self.range = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._of(x)
        return x * log_scale.exp() + shift, log_scale.flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        shift, log_scale = self._of(y)
        return (y - shift) * torch.exp(-log_scale)

    def _of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The shift and the log-scale, both 0 where values stay."""
        shift, raw = at_least_float32(self.network(x * self.mask)).chunk(2, dim=1)
        changed = 1 - self.mask
        return shift * changed, _by_channel(self.range, x) * torch.tanh(raw) * changed


def checkerboard(height: int, width: int, first: bool) -> Tensor:
    """(1, height, width): 1 on every other pixel, and on the upper left one if `first`."""
    sums = torch.arange(height)[:, None] + torch.arange(width)
    return ((sums % 2 == 0) == first).to(torch.get_default_dtype())[None]


def half_of(shape: Sequence[int], first: bool) -> Tensor:
    """(C, 1, ...) for samples of shape (C, ...): 1 on the first half of the channels, or on the rest."""
    kept = torch.arange(shape[0]) < shape[0] - shape[0] // 2
    return (kept == first).to(torch.get_default_dtype()).view(-1, *[1] * (len(shape) - 1))


def half_of_squeezed(channels: int, first: bool) -> Tensor:
    """(4 channels, 1, 1): 1 on half of the output of `Squeeze` for this many channels, or on the rest.

    The half holds the first channels' pixels, and of the middle channel, if their number is odd, the upper two of each
    block, as in RealNVP's code. A checkerboard of the pixels would only repeat the masks before the squeeze (its
    section 3.6).
    """
    place = [4 * channel + 2 * row + column for row, column in Squeeze.CORNERS for channel in range(channels)]
    kept = torch.tensor(place) < 2 * channels
    return (kept == first).to(torch.get_default_dtype()).view(-1, 1, 1)


class Split(nn.Module):
    """Removes half the channels as noise, whose mean and scale the other half predicts (Glow's code, `split2d`).

    Args:
        prior: maps what stays, (N, C - C // 2, ...), to the mean and log-scale of what leaves, (N, 2 (C // 2), ...);
            None if it leaves unchanged, as in RealNVP.
    """

    def __init__(self, prior: nn.Module | None) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What stays, the noise, and log |det|, (N,)."""
        kept, leaving = _halves(x)
        if self.prior is None:
            return kept, leaving, x.new_zeros(len(x))
        mean, log_scale = self._of(kept)
        return kept, (leaving - mean) * torch.exp(-log_scale), -log_scale.flatten(1).sum(1)

    def inverse(self, kept: Tensor, noise: Tensor) -> Tensor:
        if self.prior is None:
            return torch.cat([kept, noise], dim=1)
        mean, log_scale = self._of(kept)
        return torch.cat([kept, mean + noise * log_scale.exp()], dim=1)

    def _of(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        assert self.prior is not None
        mean, log_scale = at_least_float32(self.prior(kept)).chunk(2, dim=1)
        return mean, log_scale


class MultiScale(Invertible):
    """Samples (N, *shape) to noise (N, D) and back: after every level but the last, half of the channels leave.

    The noise of the finest level, which leaves first, comes first; `shapes` are those of each level's noise, in order.
    It is standard normal, and the learned priors of `Split` are part of the map: log p(x) = log N(noise; 0, 1) +
    log |det|. Each level but the last, of pictures, ends smaller than it begins.
    """

    def __init__(self, levels: Sequence[Chain], splits: Sequence[Split], shapes: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.levels, self.splits = nn.ModuleList(levels), nn.ModuleList(splits)
        self.shapes = [tuple(shape) for shape in shapes]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        noises, total = [], x.new_zeros(len(x))
        for i, level in enumerate(self.levels):
            x, log_det = level(x)
            total = total + log_det
            if i < len(self.splits):
                x, noise, log_det = self.splits[i](x)
                total = total + log_det
                noises.append(noise.flatten(1))
        return torch.cat([*noises, x.flatten(1)], dim=1), total

    def inverse(self, y: Tensor) -> Tensor:
        parts = y.split([math.prod(shape) for shape in self.shapes], dim=1)
        noises = [part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]
        x = noises[-1]
        for i in reversed(range(len(self.levels))):
            level, split = self.levels[i], self.splits[i] if i < len(self.splits) else None
            assert isinstance(level, Chain)
            if split is not None:
                assert isinstance(split, Split)
                x = split.inverse(x, noises[i])
            x = level.inverse(x)
        return x


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """The first half of the channels, the larger if their number is odd, and the rest."""
    second = x.shape[1] // 2
    first, rest = x.split([x.shape[1] - second, second], dim=1)
    return first, rest


def _by_channel(values: Tensor, x: Tensor) -> Tensor:
    """(C,) reshaped to broadcast over x (N, C, ...)."""
    return values.view(-1, *[1] * (x.ndim - 2))


def _positions(x: Tensor) -> int:
    """The number of pixels of a picture; 1 for a vector."""
    return math.prod(x.shape[2:])

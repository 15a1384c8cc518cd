"""PixelCNN++ (Salimans, Karpathy, Chen & Kingma 2017): pixels one after another, by convolutions that only look back.

Two streams of gated residual blocks form a U (section 2.3 and 2.4, figure 2). The upper one sees the rows above a
pixel. The left one also sees the pixels to its left, and takes the upper one's features in every block.

Weights are normalised and set from the first batch, like the authors' (Salimans & Kingma 2016). Departures from their
code (openai/pixel-cnn): the first convolutions take a shifted picture instead of being shifted themselves, so that the
outermost row and column get a bias; drawn values are rounded to bytes before the next pixel sees them (see
models/parts/mixture.py); grey pictures have mixtures of one channel; there are no classes.
"""

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from models.parts.arguments import picture_shape
from models.parts.layers import at_least_float32
from models.parts.mixture import drawn, log_probability, parameters_needed
from models.training.capabilities import HasLikelihood
from models.training.single_loss import SingleLoss
from settings.likelihood import LikelihoodSettings
from settings.sampling import PixelCNNSettings
from settings.training import Optimization

UPPER, LEFT = (2, 3), (2, 2)
"""Kernels (rows, columns) of the two streams: the row above and its own; columns to both sides, or to the left."""


# Computing a whole picture, or parts of it while it is drawn.


@dataclass
class Part:
    """The part of a feature map that is computed, a row or one pixel of it, and what is known before it.

    While a picture is drawn, nothing is computed twice (Ramachandran et al. 2017). Every convolution keeps its input.
    The upper stream advances by rows, the left one by pixels, and coarser levels only when they reach a new place.
    """

    row: int
    column: int | None
    """None for the whole row."""
    height: int
    width: int
    known: dict[nn.Module, Tensor] = field(default_factory=dict)
    """The map that each layer keeps."""

    def coarser(self) -> "Part | None":
        """The same place at half the resolution; None if that has been computed already."""
        if self.row % 2 or (self.column or 0) % 2:
            return None
        column = None if self.column is None else self.column // 2
        return Part(self.row // 2, column, self.height // 2, self.width // 2, self.known)

    def kept(self, layer: nn.Module, like: Tensor, above: int = 0, beside: int = 0) -> Tensor:
        """The layer's map, (N, C, height + above, width + beside), zeros at first."""
        if layer not in self.known:
            shape = (len(like), like.shape[1], self.height + above, self.width + beside)
            # Reads take a window of a few pixels with all channels, which lie together in this layout.
            self.known[layer] = like.new_zeros(shape).to(memory_format=torch.channels_last)
        return self.known[layer]


class CausalConv2d(nn.Conv2d):
    """A convolution over its own row and those above it, and over columns to both sides, or to the left.

    `kernel` is `UPPER` or `LEFT`; a stride of 2 halves the resolution.
    """

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride)
        self.above = kernel[0] - 1
        self.left = 1
        self.right = kernel[1] - 1 - self.left

    def forward(self, x: Tensor, part: Part | None = None) -> Tensor:
        if part is None:
            return super().forward(F.pad(x, (self.left, self.right, self.above, 0)))
        self.keep(x, part)
        return self.at(part, x)

    def keep(self, x: Tensor, part: Part) -> None:
        """Stores the input (N, C, 1, columns) of a part."""
        column = part.column or 0
        kept = part.kept(self, x, self.above, self.left + self.right)
        kept[:, :, part.row + self.above, self.left + column : self.left + column + x.shape[3]] = x[:, :, 0]

    def at(self, part: Part, x: Tensor) -> Tensor:
        """The output at a part whose input, `x` included, is stored."""
        column = part.column or 0
        rows, columns = self.kernel_size
        kept = part.kept(self, x, self.above, self.left + self.right)
        window = kept[:, :, part.row : part.row + rows, column : column + x.shape[3] + columns - 1]
        return super().forward(window)


class Grown(nn.ConvTranspose2d):
    """A transposed convolution that doubles the resolution: a pixel's features go to the four that it becomes.

    Those of the upper stream also go to the columns beside them.
    """

    def __init__(self, channels: int, kernel: tuple[int, int]) -> None:
        beside = int(kernel == UPPER)
        super().__init__(channels, channels, kernel, 2, padding=(0, beside), output_padding=(0, beside))

    def kept(self, x: Tensor | None, part: Part, like: Tensor) -> Tensor:
        """The output at a part, (N, C, 1, columns), from the coarse features there, or None if they are not new."""
        kept = part.kept(self, like)
        column = part.column or 0
        if x is not None:
            grown = self(x)
            kept[:, :, part.row : part.row + 2, column : column + grown.shape[3]] = grown
        return kept[:, :, part.row : part.row + 1, column : column + like.shape[3]]


def concat_elu(x: Tensor) -> Tensor:
    """ELU of x and of -x: (N, 2 C, H, W) (Shang et al. 2016, with ELU for ReLU)."""
    return F.elu(torch.cat([x, -x], dim=1))


class GatedBlock(nn.Module):
    """x + a * sigmoid(b), with a and b two convolutions away from x, between which `aside` is added.

    `aside` is the number of channels of further features, added by a 1x1 convolution; 0 for none. Dropout lies between
    the convolutions.
    """

    def __init__(self, channels: int, aside: int, kernel: tuple[int, int], dropout: float) -> None:
        super().__init__()
        self.first = CausalConv2d(2 * channels, channels, kernel)
        self.aside = nn.Conv2d(2 * aside, channels, 1) if aside else None
        self.second = CausalConv2d(2 * channels, 2 * channels, kernel)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, aside: Tensor | None, part: Part | None) -> Tensor:
        y = self.first(concat_elu(x), part)
        if self.aside is not None:
            assert aside is not None
            y = y + self.aside(concat_elu(aside))
        values, gates = self.second(self.dropout(concat_elu(y)), part).chunk(2, dim=1)
        return x + values * torch.sigmoid(gates)


@dataclass
class Trace:
    """The features after each block of a level, and those of the coarser levels inside it."""

    down: list[Tensor]
    up: list[Tensor]
    inner: "Trace | None"

    def column(self, number: int) -> "Trace":
        """One column of a row's features, at every level."""
        here = slice(number, number + 1)
        inner = None if self.inner is None else self.inner.column(number // 2)
        return Trace([x[..., here] for x in self.down], [x[..., here] for x in self.up], inner)


class Level(nn.Module):
    """A stream at one resolution: blocks on the way down, `coarser` levels, blocks on the way up.

    A block on the way up takes the output of one on the way down, the last first; there is one more of them, except in
    the coarsest level. In the left stream every block also takes the output of the upper stream's block at its place.
    """

    def __init__(self, channels: int, blocks: int, coarser: int, kernel: tuple[int, int], dropout: float) -> None:
        super().__init__()
        beside = channels if kernel == LEFT else 0
        self.down = nn.ModuleList(GatedBlock(channels, beside, kernel, dropout) for _ in range(blocks))
        up = blocks + 1 if coarser else blocks
        self.up = nn.ModuleList(GatedBlock(channels, channels + beside, kernel, dropout) for _ in range(up))
        self.inner = Level(channels, blocks, coarser - 1, kernel, dropout) if coarser else None
        self.shrink = CausalConv2d(channels, channels, kernel, stride=2) if coarser else None
        self.grow = Grown(channels, kernel) if coarser else None

    def forward(self, x: Tensor, beside: Trace | None = None, part: Part | None = None) -> Trace:
        """The features of a whole map, or of a part of it, whose `beside` is the same part of the upper stream."""
        down, up, inner = [x], [], None
        for number, block in enumerate(self.down):
            down.append(block(down[-1], beside.down[number + 1] if beside else None, part))
        shortcuts = list(down)
        if self.inner is None:
            x = shortcuts.pop()
        else:
            x, inner = self._coarser(down[-1], beside.inner if beside else None, part)
        for number, block in enumerate(self.up):
            aside = shortcuts.pop()
            x = block(x, torch.cat([beside.up[number], aside], dim=1) if beside else aside, part)
            up.append(x)
        return Trace(down, up, inner)

    def _coarser(self, x: Tensor, beside: Trace | None, part: Part | None) -> tuple[Tensor, Trace | None]:
        assert self.inner is not None
        assert self.shrink is not None
        assert self.grow is not None
        if part is None:
            inner = self.inner(self.shrink(x), beside)
            return self.grow(inner.up[-1]), inner
        self.shrink.keep(x, part)
        coarser = part.coarser()
        if coarser is None:
            return self.grow.kept(None, part, x), None
        inner = self.inner(self.shrink.at(part, x), beside, coarser)
        return self.grow.kept(inner.up[-1], part, x), inner


class PixelNetwork(nn.Module):
    """The parameters of each pixel's mixture, given the pixels above and to the left; arguments as in `PixelCNN`."""

    def __init__(self, channels: int, width: int, blocks: int, mixtures: int, dropout: float) -> None:
        super().__init__()
        self.channels = channels
        # Another channel, of ones, distinguishes the picture from its surroundings.
        self.upper_first = nn.Conv2d(channels + 1, width, (2, 3))
        self.above_first = nn.Conv2d(channels + 1, width, (1, 3))
        self.left_first = nn.Conv2d(channels + 1, width, (2, 1))
        self.upper, self.left = (Level(width, blocks, 2, kernel, dropout) for kernel in (UPPER, LEFT))
        self.last = nn.Conv2d(width, parameters_needed(mixtures, channels), 1)
        self.initialized: Tensor
        self.register_buffer("initialized", torch.zeros((), dtype=torch.uint8))
        for layer in convolutions(self):
            normalize_weight(layer)

    def framed(self, x: Tensor) -> Tensor:
        """Pictures with a channel of ones, and zeros around them: two rows above, a column to each side."""
        return F.pad(F.pad(x, (0, 0, 0, 0, 0, 1), value=1.0), (1, 1, 2, 0))

    def forward(self, x: Tensor) -> Tensor:
        """Parameters (N, H, W, P) of pictures (N, C, H, W) in [-1, 1]."""
        framed = self.framed(x)
        upper = self.upper(self.upper_first(framed[:, :, :-1]))
        first = self.above_first(framed[:, :, 1:-1]) + self.left_first(framed[:, :, 1:, :-2])
        return self._of(self.left(first, upper))

    def _of(self, features: Trace) -> Tensor:
        parameters: Tensor = self.last(F.elu(features.up[-1]))
        return parameters.permute(0, 2, 3, 1)

    def draw(self, uniforms: Tensor, temperature: float) -> Tensor:
        """Pictures (N, C, H, W) from uniform numbers (N, H, W, 1 + C)."""
        number, height, width = uniforms.shape[:3]
        framed = self.framed(uniforms.new_zeros(number, self.channels, height, width))
        known: dict[nn.Module, Tensor] = {}
        with parametrize.cached():  # normalises weights once, not for each pixel
            for row in range(height):
                upper = self.upper_row(framed, Part(row, None, height, width, known))
                for column in range(width):
                    parameters = self.pixel(framed, upper, Part(row, column, height, width, known))
                    pixel = drawn(parameters, uniforms[:, row, column], temperature)
                    framed[:, : self.channels, row + 2, column + 1] = pixel.to(framed.dtype)
        return framed[:, : self.channels, 2:, 1:-1].contiguous()

    def upper_row(self, framed: Tensor, part: Part) -> Trace:
        """The upper stream's features in a row, from framed pictures that are known above it."""
        features: Trace = self.upper(self.upper_first(framed[:, :, part.row : part.row + 2]), None, part)
        return features

    def pixel(self, framed: Tensor, upper: Trace, part: Part) -> Tensor:
        """The parameters (N, P) of a pixel, from framed pictures that are known before it."""
        row, column = part.row, part.column
        assert column is not None
        above = self.above_first(framed[:, :, row + 1 : row + 2, column : column + 3])
        left = self.left_first(framed[:, :, row + 1 : row + 3, column : column + 1])
        return self._of(self.left(above + left, upper.column(column), part))[:, 0, 0]


# Weight normalisation (Salimans & Kingma 2016), and its initialization from data.


def convolutions(network: nn.Module) -> list[nn.Conv2d | nn.ConvTranspose2d]:
    """All convolutions of a network, in the order of its modules."""
    return [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))]


def normalize_weight(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Makes a weight g v / |v| for each output channel: v from N(0, 0.05), g one, and no bias."""
    nn.init.normal_(layer.weight, 0.0, 0.05)
    weight_norm(layer, dim=int(isinstance(layer, nn.ConvTranspose2d)))
    nn.init.ones_(gain(layer))
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


def gain(layer: nn.Module) -> nn.Parameter:
    """The g of a normalised weight."""
    found = layer.get_parameter("parametrizations.weight.original0")
    assert isinstance(found, nn.Parameter)
    return found


@contextlib.contextmanager
def initializing(network: nn.Module) -> Iterator[None]:
    """Inside, a forward pass sets gains and biases so that the output of each convolution for that batch has mean 0 and
    standard deviation 1, or 0.1 for a block's second (section 3 of Salimans & Kingma 2016; the authors' code).
    """
    small = {block.second for block in network.modules() if isinstance(block, GatedBlock)}
    hooks = [
        layer.register_forward_hook(functools.partial(_set_from, 0.1 if layer in small else 1.0))
        for layer in convolutions(network)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _set_from(deviation: float, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """A forward hook: sets the layer by its output (N, C, H, W), and returns its new output for the same input."""
    full = at_least_float32(output)
    mean = full.mean((0, 2, 3))
    scale = deviation / torch.sqrt(full.var((0, 2, 3), correction=0) + 1e-10)
    gains = gain(layer)
    gains.mul_(scale.view_as(gains))
    assert isinstance(layer.bias, nn.Parameter)
    layer.bias.copy_(scale * (layer.bias - mean))
    return (output - _by_channel(mean, output)) * _by_channel(scale, output)


def _by_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, 1, 1).to(like.dtype)


class PixelCNN(SingleLoss, HasLikelihood):
    """PixelCNN++, unconditional.

    Args:
        data_shape: (C, H, W); both sides multiples of 4.
        num_classes: number of classes in the data; not used.
        width: channels of all features.
        blocks: gated residual blocks on the way down, in each stream and at each of the three levels.
        mixtures: logistics per pixel.
        dropout: within the blocks, in training.
        optimization: how the network is trained.
    """

    settings_class = PixelCNNSettings
    likelihood_kind = "exact"
    network: PixelNetwork

    def __init__(
        self,
        data_shape: Sequence[int],
        num_classes: int = 0,
        width: int = 160,
        blocks: int = 5,
        mixtures: int = 10,
        dropout: float = 0.5,
        optimization: Optimization | None = None,
    ) -> None:
        channels, height, side = picture_shape(data_shape)
        if height % 4 or side % 4:
            raise ValueError(f"PixelCNN halves pictures twice, but {height}x{side} cannot be: set data.resolution")
        if min(width, blocks, mixtures) < 1:
            raise ValueError("width, blocks and mixtures must be at least 1")
        network = PixelNetwork(channels, width, blocks, mixtures, dropout)
        super().__init__(data_shape, num_classes, network, Optimization() if optimization is None else optimization)
        self.width, self.blocks, self.mixtures, self.dropout = width, blocks, mixtures, dropout

    def on_first_batch(self, x: Tensor, labels: Tensor) -> None:
        """Sets the weights once and for all: neither a resumed nor a fine-tuned run does so again."""
        if not self.network.initialized:
            with initializing(self.network):
                self.network(x)
            self.network.initialized.fill_(1)

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        """The negative log-probability of a picture, in nats per value: (N,)."""
        found = -log_probability(x.permute(0, 2, 3, 1), self.network(x)).sum((1, 2)) / x[0].numel()
        self.observe("train_bits_per_dim", found / math.log(2))
        return found

    def generate(self, generators: Sequence[torch.Generator], labels: Tensor, settings: PixelCNNSettings) -> Tensor:
        network: PixelNetwork = self.chosen_network(settings.weights)
        channels, height, width = self.data_shape
        uniforms = [torch.rand(height, width, 1 + channels, generator=generator) for generator in generators]
        return network.draw(torch.stack(uniforms).to(self.device), settings.temperature)

    def log_likelihood(
        self, x: Tensor, labels: Tensor, generators: Sequence[torch.Generator], settings: LikelihoodSettings
    ) -> Tensor:
        parameters = self.chosen_network(settings.weights)(x)
        return log_probability(x.permute(0, 2, 3, 1), parameters).double().sum((1, 2))

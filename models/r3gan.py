"""R3GAN (Huang, Gokaslan, Kuleshov & Tompkin 2024, arXiv:2501.05441): a modern GAN baseline.

python main.py fit --config configs/r3gan_fashion_mnist.yaml

The loss and the penalties are `losses.RelativisticPairing`, `regularizers.R1` and `R2`; this file has the two networks,
grouped residual blocks without normalisation. On the same weights they, the losses, the penalties and a whole step
equal those of the authors' code. A training step differs in three ways. Both players see the same real pictures,
whereas the authors draw new ones for the generator (and so consume two for each that they count). Under mixed
precision, penalties compute in float32, with passes and augmentations of their own, whereas the authors' share the
loss's pass, in bf16 at the high resolutions (`precision: as_loss` does the same). And samples are clamped to [-1, 1].

Names in the authors' state dicts (after `Model.`) and here; every weight has the same shape:
    G: MainLayers.0.Layers.0.Basis, .LinearLayer -> basis, linear    EmbeddingLayer -> embed    AggregationLayer ->
    to_rgb    MainLayers.i.Layers.0.LinearLayer -> resize.(i-1)    MainLayers.i.Layers.(j+1) -> stages.i.j
    D, of n stages: ExtractionLayer -> from_rgb    MainLayers.i.Layers.j -> stages.i.j    MainLayers.i.Layers.(last)
    .LinearLayer -> resize.i    MainLayers.(n-1).Layers.(last).Basis, .LinearLayer -> basis, linear    EmbeddingLayer ->
    embed
    in a block: LinearLayer1, NonLinearity1.Bias -> conv1.weight, conv1.bias (2 alike)    LinearLayer3 -> conv3
    A convolution's weight is its `Layer.weight`.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.parts.arguments import at_least, classes_seen, highest_sides, picture_shape
from models.parts.deployed import Deployed
from models.parts.layers import autocast_dtype, one_hot
from models.parts.losses import RelativisticPairing
from models.parts.ops import RESAMPLE_TAPS, downsample2d, low_pass, upsample2d
from models.parts.regularizers import R1, R2
from models.training.gan import GAN, layers_within
from settings.sampling import GANSettings
from settings.training import AdversarialTraining

SLOPE = 0.2
"""The leaky ReLU's slope below zero."""
GAIN = math.sqrt(2 / (1 + SLOPE**2))
"""The gain that keeps the variance through that ReLU (He et al. 2015, eq. 14)."""


class Conv2d(nn.Conv2d):
    """A convolution that keeps the size and computes in its input's dtype; weights start as N(0, gain^2 / fan-in)."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, groups: int = 1, bias: bool = False, gain: float = 1.0
    ) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=bias)
        initialise(self.weight, gain)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class ResidualBlock(nn.Module):
    """x + conv1x1(act(grouped conv3x3(act(conv1x1(x))))), an inverted bottleneck (section 3.3, figure 3).

    Without normalisation, its initialisation keeps the variance (fix-up, Zhang et al. 2019): the last convolution
    starts at 0, so that the block is the identity, and the others are scaled by depth^(-1/4) (L^(-1/(2m-2)), m = 3).
    The depth is the number of residual blocks in the whole network.
    """

    def __init__(self, width: int, groups: int, expansion: int, depth: int) -> None:
        super().__init__()
        inner, gain = width * expansion, GAIN * depth**-0.25
        self.conv1 = Conv2d(width, inner, 1, bias=True, gain=gain)
        self.conv2 = Conv2d(inner, inner, 3, groups, bias=True, gain=gain)
        self.conv3 = Conv2d(inner, width, 1, gain=0.0)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.conv1(x), SLOPE)
        y = F.leaky_relu(self.conv2(y), SLOPE)
        return x + self.conv3(y)


@dataclass(frozen=True)
class Sizes:
    """The sizes that both networks share."""

    widths: tuple[int, ...]
    """Channels at 4 px, 8 px, ..."""
    groups: tuple[int, ...]
    """Of the blocks at 4 px, 8 px, ..."""
    blocks: int
    """Residual blocks per resolution."""
    expansion: int
    """Of a block's inner channels."""
    channels: int
    """Of the pictures."""
    classes: int
    """0 for none."""
    low_sides: tuple[int, ...]
    """Sides in pixels whose layers use 16 bits under autocast."""


class Generator(nn.Module):
    """Latents (N, latent_dim) and labels (N,) to unclamped pictures (N, channels, resolution, resolution).

    The labels' embedding has `latent_dim` values too.
    """

    def __init__(self, latent_dim: int, sizes: Sizes) -> None:
        super().__init__()
        classes, widths = sizes.classes, sizes.widths
        self.classes, self.low_sides = classes, sizes.low_sides
        self.embed = linear(classes, latent_dim) if classes else None
        self.linear = linear(latent_dim * (2 if classes else 1), widths[0])
        self.basis = nn.Parameter(torch.randn(widths[0], 4, 4))
        self.resize = nn.ModuleList(resizing(before, after) for before, after in itertools.pairwise(widths))
        self.stages = nn.ModuleList(stage(i, sizes) for i in range(len(widths)))
        self.to_rgb = Conv2d(widths[-1], sizes.channels, 1)
        self.resample_filter: Tensor
        self.register_buffer("resample_filter", low_pass(*RESAMPLE_TAPS), persistent=False)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        low, full = autocast_dtype(z), self.resample_filter.dtype
        with torch.autocast(z.device.type, enabled=False):
            if self.embed is not None:
                z = torch.cat([z, self.embed(one_hot(labels, self.classes).to(z.dtype))], dim=1)
            x = self.linear(z)[:, :, None, None] * self.basis
            x = self.stages[0](x.contiguous(memory_format=torch.channels_last))
            for i, resize in enumerate(self.resize, start=1):
                # Widths change at the lower of the two resolutions, where it is cheaper.
                x = upsample2d(resize(x.to(low if 4 << i in self.low_sides else full)), self.resample_filter)
                x = self.stages[i](x)
            return self.to_rgb(x).to(full)


class Discriminator(nn.Module):
    """Pictures (N, channels, resolution, resolution) and labels (N,) to logits (N,): the generator's mirror image.

    If conditional, it is a projection discriminator (Miyato & Koyama 2018).
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        classes, width = sizes.classes, sizes.widths[0]
        self.classes, self.low_sides = classes, sizes.low_sides
        downwards = sizes.widths[::-1]
        self.from_rgb = Conv2d(sizes.channels, downwards[0], 1)
        self.stages = nn.ModuleList(stage(i, sizes) for i in reversed(range(len(downwards))))
        self.resize = nn.ModuleList(resizing(before, after) for before, after in itertools.pairwise(downwards))
        self.basis = nn.Conv2d(width, width, 4, groups=width, bias=False)
        initialise(self.basis.weight)
        self.linear = linear(width, width if classes else 1)
        self.embed = linear(classes, width, gain=1 / math.sqrt(width)) if classes else None
        self.resample_filter: Tensor
        self.register_buffer("resample_filter", low_pass(*RESAMPLE_TAPS), persistent=False)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        low, full, side = autocast_dtype(x), self.resample_filter.dtype, x.shape[-1]
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(low if side in self.low_sides else full, memory_format=torch.channels_last)
            x = self.stages[0](self.from_rgb(x))
            for i, resize in enumerate(self.resize, start=1):
                x = resize(downsample2d(x, self.resample_filter))
                side //= 2
                x = self.stages[i](x.to(low if side in self.low_sides else full))
            # One 4x4 filter per channel: a sum of products, without a convolution, which is slow on CPUs.
            x = self.linear((x.to(full) * self.basis.weight[:, 0]).sum((2, 3)))
            if self.embed is None:
                return x.squeeze(1)
            return (x * self.embed(one_hot(labels, self.classes).to(x.dtype))).sum(1)


def initialise(weight: Tensor, gain: float = 1.0) -> None:
    """N(0, gain^2 / fan-in) (He et al. 2015)."""
    nn.init.normal_(weight, 0.0, gain / math.sqrt(weight[0].numel()))


def linear(inputs: int, outputs: int, gain: float = 1.0) -> nn.Linear:
    """A linear layer without bias, initialised like the convolutions."""
    layer = nn.Linear(inputs, outputs, bias=False)
    initialise(layer.weight, gain)
    return layer


def stage(number: int, sizes: Sizes) -> nn.Sequential:
    """The residual blocks of 4 x 2^number px."""
    width, groups, depth = sizes.widths[number], sizes.groups[number], sizes.blocks * len(sizes.widths)
    return nn.Sequential(*(ResidualBlock(width, groups, sizes.expansion, depth) for _ in range(sizes.blocks)))


def resizing(before: int, after: int) -> nn.Module:
    """Changes the width from one resolution to the next."""
    return nn.Identity() if before == after else Conv2d(before, after, 1)


class R3GAN(GAN):
    """R3GAN. Parameters: 20,732,160 and 20,683,776 at 32 px with the defaults; conditional 20,781,952 and 21,280,512.

    Every setting that the authors schedule takes a `schedules.Cosine` in `adversarial`: lr, beta2, R1's and R2's gamma,
    the average's half-life, and ADA's p.

    Args:
        data_shape: (C, H, W); H = W = 4 * 2^(number of widths - 1).
        num_classes: number of classes in the data; used if `conditional`.
        widths: channels at 4 px, 8 px, ..., of both networks.
        groups: of the 3x3 convolutions at 4 px, 8 px, ...; each divides its width times `expansion`.
        blocks: residual blocks per resolution.
        expansion: a block's inner channels, as a multiple of its width.
        latent_dim: size of the latent.
        conditional: whether both networks see the labels.
        low_resolutions: how many of the highest resolutions, from 8 px up, use 16 bits under mixed precision. The
            authors: three of four at 32 px, four at 64 and 256 px. The range of fp16 is too small: use bf16.
        adversarial: how the players are trained; by default the paper's loss and penalties, with constant settings.
    """

    lists_from_the_picture: ClassVar[tuple[str, ...]] = ("discriminator.stages", "discriminator.resize")
    generator: Generator
    discriminator: Discriminator

    def __init__(
        self,
        data_shape: Sequence[int],
        num_classes: int = 0,
        widths: Sequence[int] = (768, 768, 768, 768),
        groups: Sequence[int] = (96, 96, 96, 96),
        blocks: int = 2,
        expansion: int = 2,
        latent_dim: int = 64,
        conditional: bool = False,
        low_resolutions: int = 4,
        adversarial: AdversarialTraining | None = None,
    ) -> None:
        channels, height, resolution = picture_shape(data_shape)
        at_least(1, blocks=blocks, expansion=expansion, latent_dim=latent_dim)
        if not widths or min(widths) < 1:
            raise ValueError(f"widths are channels, at least 1 at each resolution from 4 px up, not {list(widths)}")
        if height != resolution or resolution != 4 << len(widths) - 1:
            raise ValueError(
                f"widths names {len(widths)} resolutions, 4 to {4 << len(widths) - 1} px, but pictures are "
                f"{height}x{resolution}: set data.resolution, or another number of widths and groups"
            )
        if len(groups) != len(widths):
            raise ValueError(f"groups and widths need one number per resolution, not {len(groups)} and {len(widths)}")
        for width, count in zip(widths, groups, strict=True):
            if count < 1 or width * expansion % count:
                raise ValueError(f"groups must divide {width} channels times expansion {expansion}, and {count} do not")
        if adversarial is None:
            adversarial = AdversarialTraining(RelativisticPairing(), [R1(1.0), R2(1.0)], beta1=0.0, beta2=0.9)
        classes = classes_seen(num_classes, conditional)
        low_sides = tuple(highest_sides(resolution, low_resolutions))
        sizes = Sizes(tuple(widths), tuple(groups), blocks, expansion, channels, classes, low_sides)
        players = Generator(latent_dim, sizes), Discriminator(sizes)
        super().__init__(data_shape, num_classes, *players, latent_dim, adversarial)
        self.widths, self.groups = list(widths), list(groups)
        self.blocks, self.expansion = blocks, expansion
        self.conditional, self.low_resolutions = conditional, low_resolutions

    def from_latents(self, latents: Tensor, labels: Tensor, settings: GANSettings) -> Tensor:
        return pictures(self.sampled_network(settings), latents.to(self.dtype), labels)

    def deployed(self, settings: GANSettings | None = None) -> Deployed:
        """The generator, with pictures clamped to [-1, 1]."""
        return Deployed(self.sampled_network(settings or GANSettings()), pictures)

    def discriminator_layers(self) -> list[nn.Module]:
        """from_rgb, the convolutions of residual blocks and between sides, if widths differ; basis, linear."""
        network = self.discriminator
        parts = [network.from_rgb, network.stages[0]]
        for resize, later in zip(network.resize, network.stages[1:], strict=True):
            parts += [resize, later]
        return [layer for part in [*parts, network.basis, network.linear] for layer in layers_within(part)]


def pictures(generator: nn.Module, z: Tensor, labels: Tensor) -> Tensor:
    """The generator's pictures, clamped to [-1, 1]."""
    return generator(z, labels).clamp(-1, 1)

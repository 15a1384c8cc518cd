"""StyleGAN2 (Karras et al. 2020, arXiv:1912.04958), with the settings of StyleGAN2-ADA (arXiv:2006.06676).

python main.py fit --config configs/stylegan2_fashion_mnist.yaml

On the same weights both networks, R1 and the path lengths equal those of the authors' PyTorch code. A training step
differs in two ways: the discriminator comes first, as in every GAN here, and fakes have the labels of the real batch,
whereas the authors draw labels from the data again.

Names in the authors' state dicts and here; every weight has the same shape:
    mapping.embed, mapping.fc0 ... -> mapping.embed, mapping.layers.0 ...    mapping.w_avg -> w_average
    synthesis.b4.const -> synthesis.const    synthesis.b8.conv0 -> synthesis.blocks.1.conv0    torgb -> to_rgb
    b32.fromrgb -> from_rgb    b32.conv0 -> blocks.0.conv0 (b16 -> blocks.1)
    b4.conv, b4.fc, b4.out -> conv, inner, last
"""

import dataclasses
import functools
import hashlib
import itertools
import math
from collections.abc import Sequence
from typing import ClassVar, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.parts.arguments import (
    at_least,
    check_minibatch_group,
    classes_seen,
    highest_sides,
    square_pictures,
    stage_widths,
)
from models.parts.compiling import Compiled, Ops
from models.parts.deployed import Deployed
from models.parts.layers import autocast_dtype, one_hot, pixel_norm, with_minibatch_deviation
from models.parts.losses import NonSaturating
from models.parts.ops import RESAMPLE_TAPS, bias_act, low_pass, modulated_conv2d, resampled_conv2d, upsample2d
from models.parts.ranks import joint_mean
from models.parts.regularizers import R1, MicroBatch, Penalty, path_lengths
from models.training.capabilities import HasStyles
from models.training.gan import GAN, layers_within
from models.training.randomness import keyed_generator
from settings.sampling import GANSettings, StyleGAN2Settings
from settings.training import AdversarialTraining

Activation: TypeAlias = Literal["linear", "lrelu"]

Noise: TypeAlias = Sequence[Tensor] | Literal["random", "const", "none"]
"""The noise that layers add to each pixel: (N, 1, H, W) for each of `Synthesis.noise_sides`; "random" draws it from the
global generator; "const" takes the network's own, the same for every sample; "none" adds nothing."""


class EqualizedLinear(nn.Module):
    """A linear layer whose weights start as N(0, 1) / lr_multiplier, scaled at runtime by lr_multiplier / sqrt(inputs).

    Adam then changes all layers' outputs at one speed, times `lr_multiplier` (Karras et al. 2018, section 4.1).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        activation: Activation = "linear",
        lr_multiplier: float = 1.0,
        initial_bias: float = 0.0,
    ) -> None:
        super().__init__()
        self.activation: Activation = activation
        self.lr_multiplier, self.scale = lr_multiplier, lr_multiplier / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), initial_bias))

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight * self.scale, self.bias * self.lr_multiplier)
        return bias_act(x, activation=self.activation)


class EqualizedConv2d(nn.Module):
    """A convolution whose weights start as N(0, 1), scaled at runtime by 1 / sqrt(fan-in); halves the side if `down`.

    `clamp` limits the magnitude of the output, None does not; the kernel's size is odd.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        activation: Activation = "lrelu",
        down: bool = False,
        bias: bool = True,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.activation: Activation = activation
        self.down, self.clamp = 2 if down else 1, clamp
        self.scale = 1 / math.sqrt(inputs * kernel**2)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor, resample_filter: Tensor, gain: float = 1.0) -> Tensor:
        """`gain` multiplies the output and its limit."""
        x = resampled_conv2d(x, (self.weight * self.scale).to(x.dtype), resample_filter, down=self.down)
        return bias_act(x, self.bias, self.activation, gain, None if self.clamp is None else self.clamp * gain)


class Mapping(nn.Module):
    """Latents (N, latent_dim) and labels (N,) to intermediate latents (N, outputs) (section 2; Karras et al. 2019, 2).

    All layers have `outputs` units. `latent_dim` is 0 for a network of labels alone, `classes` 0 for no labels.
    """

    def __init__(self, latent_dim: int, outputs: int, classes: int, layers: int, lr_multiplier: float = 0.01) -> None:
        super().__init__()
        self.latent_dim, self.classes = latent_dim, classes
        self.embed = EqualizedLinear(classes, outputs) if classes else None
        widths = [latent_dim + (outputs if classes else 0), *[outputs] * layers]
        self.layers = nn.ModuleList(
            EqualizedLinear(before, after, "lrelu", lr_multiplier) for before, after in itertools.pairwise(widths)
        )

    def forward(self, z: Tensor | None, labels: Tensor) -> Tensor:
        parts = [] if z is None else [pixel_norm(z)]
        if self.embed is not None:
            parts.append(pixel_norm(self.embed(one_hot(labels, self.classes).to(self.embed.weight.dtype))))
        w = torch.cat(parts, dim=1)
        for layer in self.layers:
            w = layer(w)
        return w


class StyledConv2d(nn.Module):
    """A modulated 3x3 convolution with noise, with an output of this side, doubled if `up` (section 2.2, figure 2c)."""

    def __init__(self, inputs: int, outputs: int, w_dim: int, side: int, up: bool, clamp: float | None) -> None:
        super().__init__()
        self.up, self.clamp = 2 if up else 1, clamp
        self.affine = EqualizedLinear(w_dim, inputs, initial_bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.noise_const: Tensor
        self.register_buffer("noise_const", torch.randn(side, side))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None, resample_filter: Tensor) -> Tensor:
        x = modulated_conv2d(x, self.weight, self.affine(w), resample_filter, self.up)
        if noise is not None:
            x = x + (noise * self.noise_strength).to(x.dtype)
        return bias_act(x, self.bias, "lrelu", clamp=self.clamp)


class ToRGB(nn.Module):
    """A modulated 1x1 convolution to a picture, without demodulation (figure 7b)."""

    def __init__(self, inputs: int, channels: int, w_dim: int, clamp: float | None) -> None:
        super().__init__()
        self.clamp, self.scale = clamp, 1 / math.sqrt(inputs)
        self.affine = EqualizedLinear(w_dim, inputs, initial_bias=1.0)
        self.weight = nn.Parameter(torch.randn(channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = modulated_conv2d(x, self.weight, self.affine(w) * self.scale, demodulate=False)
        return bias_act(x, self.bias, clamp=self.clamp)


class SynthesisBlock(nn.Module):
    """The layers of one resolution. The first, 4 px, has one convolution (`inputs` is None), the others have two."""

    def __init__(
        self, inputs: int | None, outputs: int, channels: int, w_dim: int, side: int, clamp: float | None
    ) -> None:
        super().__init__()
        self.conv0 = None if inputs is None else StyledConv2d(inputs, outputs, w_dim, side, True, clamp)
        self.conv1 = StyledConv2d(outputs, outputs, w_dim, side, False, clamp)
        self.to_rgb = ToRGB(outputs, channels, w_dim, clamp)

    def forward(
        self, x: Tensor, picture: Tensor | None, ws: Tensor, noises: Sequence[Tensor | None], resample_filter: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The features and the picture so far, at half the side except in the first block, to those of this side.

        `ws` (N, layers, w_dim) and `noises` are those of the convolutions; the last latent is for the picture.
        """
        if self.conv0 is not None:
            x = self.conv0(x, ws[:, 0], noises[0], resample_filter)
        x = self.conv1(x, ws[:, -2], noises[-1], resample_filter)
        y = self.to_rgb(x, ws[:, -1]).to(ws.dtype)
        return x, y if picture is None else upsample2d(picture, resample_filter) + y


class Synthesis(nn.Module):
    """Intermediate latents (N, layers, w_dim) to pictures (N, channels, resolution, resolution), by skips (figure 7b).

    `widths` are channels at 4 px, 8 px, ... Layers' outputs are limited to `clamp`; those whose side is one of
    `low_sides`, in pixels, use 16 bits under autocast.
    """

    def __init__(
        self, w_dim: int, widths: Sequence[int], channels: int, clamp: float | None, low_sides: Sequence[int]
    ) -> None:
        super().__init__()
        self.low_sides = tuple(low_sides)
        self.const = nn.Parameter(torch.randn(widths[0], 4, 4))
        self.blocks = nn.ModuleList(
            SynthesisBlock(before, after, channels, w_dim, 4 << i, clamp)
            for i, (before, after) in enumerate(zip([None, *widths], widths, strict=False))
        )
        self.resample_filter: Tensor
        self.register_buffer("resample_filter", low_pass(*RESAMPLE_TAPS), persistent=False)
        # A block's picture shares the latent of the next block's first convolution; only the last has its own.
        self.layers = 2 * len(widths)
        self.noise_sides = [4, *(4 << i for i in range(1, len(widths)) for _ in range(2))]

    def forward(self, ws: Tensor, noise: Noise = "random") -> Tensor:
        low = autocast_dtype(ws)
        with torch.autocast(ws.device.type, enabled=False):
            noises = self._noise(ws.shape[0], noise)
            # Not len(ws), which tracing would make a constant.
            x = self.const.expand(ws.shape[0], -1, -1, -1).contiguous(memory_format=torch.channels_last)
            picture: Tensor | None = None
            for i, block in enumerate(self.blocks):
                x = x.to(low if 4 << i in self.low_sides else ws.dtype)
                first, end = max(2 * i - 1, 0), 2 * i + 1  # this block's convolutions
                x, picture = block(x, picture, ws[:, first : end + 1], noises[first:end], self.resample_filter)
        assert picture is not None
        return picture

    def _noise(self, count: int, noise: Noise) -> Sequence[Tensor | None]:
        if noise == "none":
            return [None] * len(self.noise_sides)
        if noise == "const":
            return [layer.noise_const for layer in self.modules() if isinstance(layer, StyledConv2d)]
        if noise == "random":
            like = self.resample_filter
            return [
                torch.randn(count, 1, side, side, device=like.device, dtype=like.dtype) for side in self.noise_sides
            ]
        assert not isinstance(noise, str)
        return [each.to(self.resample_filter) for each in noise]


class Generator(nn.Module):
    """Latents (N, latent_dim) and labels (N,) to unclamped pictures (N, channels, resolution, resolution)."""

    def __init__(self, mapping: Mapping, synthesis: Synthesis, w_dim: int) -> None:
        super().__init__()
        self.mapping, self.synthesis = mapping, synthesis
        self.w_average: Tensor
        self.register_buffer("w_average", torch.zeros(w_dim))

    @torch.no_grad()
    def track(self, w: Tensor, beta: float) -> None:
        """Moves the average of intermediate latents towards the mean of `w` (N, w_dim) over all ranks."""
        self.w_average.copy_(torch.lerp(joint_mean(w.mean(0)), self.w_average, beta))

    def ws(self, z: Tensor, labels: Tensor, settings: StyleGAN2Settings | None = None) -> Tensor:
        """Intermediate latents of every layer, (N, layers, w_dim), truncated; float32 even under autocast."""
        with torch.autocast(z.device.type, enabled=False):
            ws = broadcast(self.mapping(z, labels), self.synthesis.layers)
            if settings is None or settings.truncation_psi == 1:
                return ws
            return self.truncated(ws, settings.truncation_psi, settings.truncation_cutoff)

    def truncated(self, ws: Tensor, psi: float, cutoff: int | None) -> Tensor:
        """`ws` (N, layers, w_dim), with the first `cutoff` layers (None: all) moved towards the average."""
        nearer = torch.lerp(self.w_average, ws, psi)
        return nearer if cutoff is None else torch.cat([nearer[:, :cutoff], ws[:, cutoff:]], dim=1)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.synthesis(self.ws(z, labels))


class DiscriminatorBlock(nn.Module):
    """Halves the side: (N, inputs, H, W) to (N, outputs, H/2, W/2), residual or not (figure 7c, 7a)."""

    def __init__(self, inputs: int, outputs: int, residual: bool, clamp: float | None) -> None:
        super().__init__()
        self.conv0 = EqualizedConv2d(inputs, inputs, 3, clamp=clamp)
        self.conv1 = EqualizedConv2d(inputs, outputs, 3, down=True, clamp=clamp)
        self.skip = EqualizedConv2d(inputs, outputs, 1, "linear", down=True, bias=False) if residual else None

    def forward(self, x: Tensor, resample_filter: Tensor) -> Tensor:
        if self.skip is None:
            return self.conv1(self.conv0(x, resample_filter), resample_filter)
        half = math.sqrt(0.5)  # the sum of two branches of variance 1 then has variance 1
        return self.skip(x, resample_filter, half) + self.conv1(self.conv0(x, resample_filter), resample_filter, half)


class Discriminator(nn.Module):
    """Pictures (N, channels, resolution, resolution) and labels (N,) to logits (N,).

    If conditional, it is a projection discriminator (Miyato & Koyama 2018) with class vectors from a mapping network.
    `widths`, `clamp` and `low_sides` are those of `Synthesis`; without a `minibatch_group` there is no such statistic.
    """

    def __init__(
        self,
        widths: Sequence[int],
        channels: int,
        classes: int,
        residual: bool,
        minibatch_group: int | None,
        clamp: float | None,
        low_sides: Sequence[int],
        mapping_layers: int = 8,
    ) -> None:
        super().__init__()
        self.minibatch_group, self.low_sides = minibatch_group, tuple(low_sides)
        self.from_rgb = EqualizedConv2d(channels, widths[-1], 1, clamp=clamp)
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(larger, smaller, residual, clamp) for smaller, larger in itertools.pairwise(widths)
        )[::-1]
        width = widths[0]
        self.mapping = Mapping(0, width, classes, mapping_layers) if classes else None
        self.conv = EqualizedConv2d(width + (minibatch_group is not None), width, 3, clamp=clamp)
        self.inner = EqualizedLinear(16 * width, width, "lrelu")
        self.last = EqualizedLinear(width, width if classes else 1)
        self.resample_filter: Tensor
        self.register_buffer("resample_filter", low_pass(*RESAMPLE_TAPS), persistent=False)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        low, full, side = autocast_dtype(x), self.resample_filter.dtype, x.shape[-1]
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(low if side in self.low_sides else full, memory_format=torch.channels_last)
            x = self.from_rgb(x, self.resample_filter)
            for block in self.blocks:
                x = block(x.to(low if side in self.low_sides else full), self.resample_filter)
                side //= 2
            x = x.to(full)
            if self.minibatch_group is not None:
                x = with_minibatch_deviation(x, self.minibatch_group, unbiased=False)
            x = self.last(self.inner(self.conv(x, self.resample_filter).flatten(1)))
            if self.mapping is None:
                return x.squeeze(1)
            return (x * self.mapping(None, labels)).sum(1) / math.sqrt(x.shape[1])


def broadcast(w: Tensor, layers: int) -> Tensor:
    """The same intermediate latent (N, w_dim) for every layer, (N, layers, w_dim)."""
    return w[:, None].expand(-1, layers, -1)


def mixed(w: Tensor, other: Tensor, cutoff: int, layers: int) -> Tensor:
    """`w` for the first `cutoff` layers, `other` for the rest, (N, layers, w_dim) (Karras et al. 2019, section 3.1)."""
    return torch.cat([broadcast(w, cutoff), broadcast(other, layers - cutoff)], dim=1)


class StyleGAN2(GAN, HasStyles):
    """StyleGAN2. Parameters: 30,370,060 and 29,012,513 at 1024 px with the defaults.

    Penalties are lazy, as published (appendix B): a network makes a separate step for its penalties at regular
    intervals, after that for its loss, and Adam's learning rate and betas are corrected for all steps. With an interval
    of 1 they are added to the loss, and nothing is corrected. The path length's interval counts for the generator even
    if its weight is 0 and no such step is made, as in the authors' code, whose smallest setting was trained that way.

    Random noise of sample i is a function of its latent, so `decode` draws the same as `sample`, whatever the batch.
    `to_w` gives intermediate latents, which can be moved too; `from_w` makes pictures of them.

    The authors choose their settings by resolution, number of devices and batch (`auto`): batch
    max(min(devices * min(4096 / resolution, 32), 64), devices), group min(batch / devices, 4), channel_base 32768 from
    512 px and 16384 below, learning rate 2e-3 from 1024 px and 2.5e-3 below, R1's gamma 0.0002 * resolution^2 / batch,
    ema_halflife_kimg batch * 10 / 32, ema_rampup 0.05, mapping_layers 2.

    Args:
        data_shape: (C, H, W); H = W, a power of two from 8 up.
        num_classes: number of classes in the data; used if `conditional`.
        channel_base: at a resolution both networks have channel_base / resolution channels,
        channel_max: but never more than this.
        latent_dim: size of the latent.
        w_dim: size of the intermediate latent.
        mapping_layers: of the generator's mapping network.
        architecture: of the discriminator: "resnet" or "orig", residual or not.
        minibatch_group: samples over which the discriminator takes its minibatch standard deviation; null leaves the
            statistic out.
        conditional: whether both networks see the labels.
        clamp: limit of the convolutions' outputs, which fp16 needs; null for none.
        low_resolutions: how many of the highest resolutions, from 8 px up, use 16 bits under mixed precision.
        mixing: probability that the layers from a random one on take the styles of other latents, per batch.
        w_average_beta: share of the intermediate latents' average that is kept in one pass of the generator.
        path_length_weight: of the penalty (section 3.2), 0 for none.
        path_length_every: its interval in generator steps.
        path_length_decay: of the average length towards a batch's.
        path_length_shrink: the penalty's batch is a training batch divided by this.
        ops: how the losses' passes compute: "reference" as written here, "compiled" by torch.compile, "auto" by it on
            CUDA if it works.
        adversarial: how the players are trained; by default as in the paper, with a half-life of 10 kimg for the
            average. Its regularizers must have one interval.
    """

    settings_class: ClassVar[type[GANSettings]] = StyleGAN2Settings
    lists_from_the_picture: ClassVar[tuple[str, ...]] = ("discriminator.blocks",)
    generator: Generator
    discriminator: Discriminator

    def __init__(
        self,
        data_shape: Sequence[int],
        num_classes: int = 0,
        channel_base: int = 32768,
        channel_max: int = 512,
        latent_dim: int = 512,
        w_dim: int = 512,
        mapping_layers: int = 8,
        architecture: Literal["resnet", "orig"] = "resnet",
        minibatch_group: int | None = 4,
        conditional: bool = False,
        clamp: float | None = 256.0,
        low_resolutions: int = 4,
        mixing: float = 0.9,
        w_average_beta: float = 0.995,
        path_length_weight: float = 2.0,
        path_length_every: int = 4,
        path_length_decay: float = 0.01,
        path_length_shrink: int = 2,
        ops: Ops = "auto",
        adversarial: AdversarialTraining | None = None,
    ) -> None:
        channels, resolution = square_pictures(data_shape, "StyleGAN2", least=8)
        check_minibatch_group(minibatch_group)
        if not 0 <= mixing <= 1:
            raise ValueError(f"mixing is a probability, not {mixing}")
        at_least(
            1, mapping_layers=mapping_layers, path_length_every=path_length_every, path_length_shrink=path_length_shrink
        )
        if adversarial is None:
            adversarial = AdversarialTraining(NonSaturating(), [R1(10.0, every=16)], lr=2e-3, beta1=0.0, beta2=0.99)
        widths = stage_widths(channel_base, channel_max, resolution)
        classes = classes_seen(num_classes, conditional)
        low_sides = highest_sides(resolution, low_resolutions)
        generator = Generator(
            Mapping(latent_dim, w_dim, classes, mapping_layers),
            Synthesis(w_dim, widths, channels, clamp, low_sides),
            w_dim,
        )
        residual = architecture == "resnet"
        discriminator = Discriminator(widths, channels, classes, residual, minibatch_group, clamp, low_sides)
        super().__init__(data_shape, num_classes, generator, discriminator, latent_dim, adversarial)
        self.channel_base, self.channel_max = channel_base, channel_max
        self.w_dim, self.mapping_layers = w_dim, mapping_layers
        self.architecture: Literal["resnet", "orig"] = architecture
        self.minibatch_group, self.conditional = minibatch_group, conditional
        self.clamp, self.low_resolutions = clamp, low_resolutions
        self.mixing, self.w_average_beta = mixing, w_average_beta
        self.path_length_weight, self.path_length_every = path_length_weight, path_length_every
        self.path_length_decay, self.path_length_shrink = path_length_decay, path_length_shrink
        self.ops: Ops = ops
        self._synthesize, self._discriminate = Compiled(generator.synthesis, ops), Compiled(discriminator, ops)
        self.path_length_mean: Tensor
        self.register_buffer("path_length_mean", torch.zeros(()))
        self.lazy_correction("discriminator")  # refuses regularizers with several intervals

    def discriminator_layers(self) -> list[nn.Module]:
        """As stylegan2-ada-pytorch counts for `--freezed`: from_rgb, then conv0, conv1 and skip, if it has one, of each
        block; 10 are three residual blocks. As there, the layers at 4 px cannot be frozen.
        """
        return [self.discriminator.from_rgb, *layers_within(self.discriminator.blocks)]

    # Training.

    def draw(self, labels: Tensor, with_graph: bool) -> Tensor:
        with torch.set_grad_enabled(with_graph):
            return self._synthesize(self.training_ws(labels))

    def discriminate(self, x: Tensor, labels: Tensor) -> Tensor:
        return self._discriminate(x, labels)

    def training_ws(self, labels: Tensor) -> Tensor:
        """Intermediate latents of a training batch, (N, layers, w_dim), with mixed styles; tracks their average."""
        mapping, layers = self.generator.mapping, self.generator.synthesis.layers
        with torch.autocast(self.device.type, enabled=False):
            w = mapping(self.training_latents(len(labels)), labels)
            self.generator.track(w, self.w_average_beta)
            cutoff = self.mixing_cutoff()
            if cutoff == layers:
                return broadcast(w, layers)
            return mixed(w, mapping(self.training_latents(len(labels)), labels), cutoff, layers)

    def mixing_cutoff(self) -> int:
        """The first layer with another style, or the number of layers for none; the same for a batch on all ranks."""
        layers = self.generator.synthesis.layers
        generator = self.step_generator(1)
        if float(torch.rand((), generator=generator)) >= self.mixing:
            return layers
        return int(torch.randint(1, layers, (), generator=generator))

    def penalties(self) -> list[Penalty]:
        """The regularizers, lazy ones in steps of their own, and the generator's path lengths.

        Path lengths are computed per micro-batch, because of the memory. Their interval counts even at weight 0.
        """

        def value(of: MicroBatch) -> Tensor:
            return self.path_length_weight * self._path_length_penalty(of.labels)

        every, active = self.path_length_every, value if self.path_length_weight else None
        return [
            *(dataclasses.replace(penalty, own_step=penalty.every > 1) for penalty in super().penalties()),
            Penalty("path_length_penalty", "generator", every, active, own_step=every > 1),
        ]

    def _path_length_penalty(self, labels: Tensor) -> Tensor:
        """(|J^T y| - a)^2, averaged over a smaller batch; the average length a is updated first (eq. 4)."""
        ws = self.training_ws(labels[: max(len(labels) // self.path_length_shrink, 1)])
        pictures = self.generator.synthesis(ws)
        lengths = path_lengths(pictures, ws, torch.randn_like(pictures) / math.sqrt(pictures[0, 0].numel()))
        average = torch.lerp(self.path_length_mean, joint_mean(lengths.mean()), self.path_length_decay)
        self.path_length_mean.copy_(average.detach())
        self.observe("path_length", lengths)
        return (lengths - average).square().mean()

    # Sampling.

    def from_latents(self, latents: Tensor, labels: Tensor, settings: StyleGAN2Settings) -> Tensor:
        noise = self._sampling_noise(latents, settings)
        return pictures(self.sampled_network(settings), latents.to(self.dtype), labels, settings, noise)

    def deployed(self, settings: StyleGAN2Settings | None = None) -> Deployed:
        """The generator with its truncation, and with constant noise or none.

        Raises ValueError for random noise, which a function of the latents alone cannot draw.
        """
        settings = settings or StyleGAN2Settings(noise="const")
        if settings.noise == "random":
            raise ValueError("a generator is exported with noise const or none: random noise is drawn for each sample")
        draw = functools.partial(pictures, settings=settings, noise=settings.noise)
        return Deployed(self.sampled_network(settings), draw)

    @torch.no_grad()
    def to_w(
        self, latents: Tensor, labels: Tensor | None = None, *, settings: StyleGAN2Settings | None = None
    ) -> Tensor:
        """Intermediate latents (N, layers, w_dim) of latents (N, latent_dim), truncated as the settings say."""
        settings = settings or StyleGAN2Settings()
        generator: Generator = self.sampled_network(settings)
        with self.in_eval_mode():
            return generator.ws(latents.to(self.dtype), self.given_labels(labels, len(latents)), settings)

    def from_w(
        self, ws: Tensor, *, noise: Sequence[Tensor] | None = None, settings: StyleGAN2Settings | None = None
    ) -> Tensor:
        """Pictures (N, *data_shape) of intermediate latents (N, layers, w_dim), without further truncation.

        Differentiable by `ws` and `noise`, and so not clamped to [-1, 1], for projection. `noise`, (N, 1, H, W) for
        each of `noise_sides`, replaces the settings', which, if random, is a function of `ws`.
        """
        settings = settings or StyleGAN2Settings()
        with self.sampling(settings):
            chosen = self._sampling_noise(ws, settings) if noise is None else noise
            drawn: Tensor = self.sampled_network(settings).synthesis(ws.to(self.dtype), chosen)
            return drawn.float()

    @property
    def noise_sides(self) -> Sequence[int]:
        return self.generator.synthesis.noise_sides

    def style_weights(self, settings: StyleGAN2Settings | None = None) -> list[Tensor]:
        """The affine maps A (inputs, w_dim) of the styled convolutions, from 4 px up, as they are applied.

        There is one per layer of w except the last, which only a picture's convolution reads.
        """
        synthesis: Synthesis = self.sampled_network(settings or StyleGAN2Settings()).synthesis
        affines = [layer.affine for layer in synthesis.modules() if isinstance(layer, StyledConv2d)]
        return [affine.weight.detach() * affine.scale for affine in affines]

    def _sampling_noise(self, latents: Tensor, settings: StyleGAN2Settings) -> Noise:
        """The settings' noise; random noise is a function of each sample's latent."""
        if settings.noise != "random":
            return settings.noise
        sides = self.generator.synthesis.noise_sides
        drawn = [noise_of(latent, sides) for latent in latents.detach().float().cpu()]
        return [torch.stack(layer).to(self.device, non_blocking=True) for layer in zip(*drawn, strict=True)]


def pictures(generator: Generator, z: Tensor, labels: Tensor, settings: StyleGAN2Settings, noise: Noise) -> Tensor:
    """The generator's pictures, with styles truncated as the settings say, clamped to [-1, 1]."""
    return generator.synthesis(generator.ws(z, labels, settings), noise).clamp(-1, 1)


def noise_of(latent: Tensor, sides: Sequence[int]) -> list[Tensor]:
    """Standard normal noise (1, side, side) for each side, a function of the latent's bits; float32 on the CPU."""
    digest = hashlib.blake2b(latent.contiguous().numpy().tobytes(), digest_size=8).digest()
    generator = keyed_generator(int.from_bytes(digest, "little"))
    return [torch.randn(1, side, side, generator=generator) for side in sides]

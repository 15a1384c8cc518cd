"""ProGAN (Karras, Aila, Laine & Lehtinen 2018): both networks grow from 4 px to the picture's size as they train.

python main.py fit --config configs/progan_fashion_mnist.yaml

On the same weights both networks equal those of pytorch_GAN_zoo, with three exceptions. As in the authors' code, biases
lie outside the runtime scale, and the groups of the minibatch statistic are theirs. The discriminator also blends at
8 px, where the zoo's does not. Adam keeps its state when the networks grow, which the others reset; a new layer's state
starts with its first gradient in any case.
"""

import bisect
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.parts.arguments import check_minibatch_group, classes_seen, square_pictures, stage_widths
from models.parts.deployed import Deployed
from models.parts.layers import at_least_float32, one_hot, pixel_norm, with_minibatch_deviation
from models.parts.losses import Wasserstein
from models.parts.regularizers import GradientPenalty
from models.training.base import Batch
from models.training.gan import GAN, layers_within
from settings.sampling import GANSettings
from settings.training import AdversarialTraining


class EqualizedConv2d(nn.Conv2d):
    """A convolution whose weights start as N(0, 1) and are scaled by He's constant at runtime (section 4.1).

    Adam's steps do not depend on a gradient's scale, so all weights learn at one speed, relative to their range.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        self.scale = equalize(self)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)


class EqualizedLinear(nn.Linear):
    """A linear layer with the same scaling."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.scale = equalize(self)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias)


def equalize(layer: nn.Conv2d | nn.Linear) -> float:
    """Sets weights from N(0, 1), biases to 0; returns the runtime scale sqrt(2 / fan-in) (He et al. 2015, eq. 10)."""
    nn.init.normal_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return math.sqrt(2 / layer.weight[0].numel())


def activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2, inplace=True)


def doubled(x: Tensor) -> Tensor:
    """Pictures or features at twice the size, by repeated pixels."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Growing(nn.Module):
    """A network for pictures of 4 * 2^stage px. It has the layers of all stages from the start.

    Later stages get no gradient, and no optimizer state, before they are used.
    """

    stage: int = 0
    alpha: float = 1.0
    """How far the stage has faded in: 0 is the previous stage, its pictures doubled; 1 is this stage alone."""


class Generator(Growing):
    """Latents (N, latent_dim) to pictures (N, channels, 4 * 2^stage, 4 * 2^stage); table 2 of the paper, left."""

    def __init__(self, latent_dim: int, widths: Sequence[int], channels: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.first = EqualizedLinear(latent_dim + classes, 16 * widths[0])
        self.blocks = nn.ModuleList([nn.ModuleList([EqualizedConv2d(widths[0], widths[0], 3)])])
        for before, after in itertools.pairwise(widths):
            self.blocks.append(nn.ModuleList([EqualizedConv2d(before, after, 3), EqualizedConv2d(after, after, 3)]))
        self.to_rgb = nn.ModuleList(EqualizedConv2d(width, channels, 1) for width in widths)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        if self.classes:
            z = torch.cat([z, one_hot(labels, self.classes).to(z.dtype)], dim=1)
        x = activate(self.first(pixel_norm(z)))
        x = before = pixel_norm(x.unflatten(1, (-1, 4, 4)))
        for stage in range(self.stage + 1):
            if stage > 0:
                before, x = x, doubled(x)
            for conv in self.blocks[stage].children():
                x = pixel_norm(activate(conv(x)))
        picture = self.to_rgb[self.stage](x)
        if self.alpha < 1:
            # The picture is made before it is doubled: the same values for a quarter of the work.
            picture = torch.lerp(doubled(self.to_rgb[self.stage - 1](before)), picture, self.alpha)
        return picture


class Discriminator(Growing):
    """Pictures (N, channels, 4 * 2^stage, 4 * 2^stage) to logits (N,); table 2 of the paper, right.

    If conditional, it has one output per class and reads the label's (Mescheder et al. 2018, appendix D).
    """

    def __init__(self, widths: Sequence[int], channels: int, classes: int, minibatch_group: int | None) -> None:
        super().__init__()
        self.classes, self.minibatch_group = classes, minibatch_group
        self.from_rgb = nn.ModuleList(EqualizedConv2d(channels, width, 1) for width in widths)
        first = EqualizedConv2d(widths[0] + (minibatch_group is not None), widths[0], 3)
        self.blocks = nn.ModuleList([nn.ModuleList([first])])
        for smaller, larger in itertools.pairwise(widths):
            pair = [EqualizedConv2d(larger, larger, 3), EqualizedConv2d(larger, smaller, 3)]
            self.blocks.append(nn.ModuleList(pair))
        self.inner = EqualizedLinear(16 * widths[0], widths[0])
        self.last = EqualizedLinear(widths[0], max(classes, 1))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        h = activate(self.from_rgb[self.stage](x))
        for stage in range(self.stage, -1, -1):
            if stage == 0 and self.minibatch_group is not None:
                h = with_minibatch_deviation(h, self.minibatch_group)
            for conv in self.blocks[stage].children():
                h = activate(conv(h))
            if stage > 0:
                h = F.avg_pool2d(h, 2)
            if stage == self.stage and self.alpha < 1:
                before = activate(self.from_rgb[stage - 1](F.avg_pool2d(x, 2)))
                h = torch.lerp(before, h, self.alpha)
        logits = self.last(activate(self.inner(h.flatten(1))))
        logits = (logits.gather(1, labels[:, None]) if self.classes else logits).squeeze(1)
        return at_least_float32(logits)


class ProGAN(GAN):
    """Progressive growing: 23,086,795 and 23,087,249 parameters at 1024 px with the defaults.

    Training starts at 4 px. After each stage, the next resolution, twice as large, is faded in (section 2, figure 2);
    the last stage lasts until the end of the fit. Stage and fade are functions of the samples seen, so a run can resume
    at any point. A step uses the stage and fade of its first sample, and no step has two resolutions. Steps are
    shortened before the next resolution, so that it starts exactly at its sample, if that is a multiple of the smallest
    step (data.batch_size x D steps x accumulation). Otherwise it starts after the smallest step that contains its
    sample.

    `sample` and `decode` always return pictures of `data_shape`: those of the stage, enlarged to that size (nearest
    neighbour) and clamped to [-1, 1]. So a grid shows what the networks can draw so far, and quality is always that of
    the final resolution. `logits` takes such pictures, and shrinks them to the stage's size.

    Args:
        data_shape: (C, H, W); H = W, a power of two from 4 up.
        num_classes: number of classes in the data; used if `conditional`.
        channel_base: a stage has channel_base / resolution channels,
        channel_max: but never more than this.
        latent_dim: size of the latent.
        minibatch_group: samples over which the discriminator takes its minibatch standard deviation; null leaves the
            statistic out.
        conditional: whether both networks see the labels.
        stable_kimg: thousand samples for which a resolution is trained alone: one number, or one per resolution but the
            last.
        fade_kimg: thousand samples over which the next resolution is faded in: one number, or one per resolution but
            the first.
        batch_factors: batch size of each resolution, as a multiple of data.batch_size; by default 1 for all.
        adversarial: how the players are trained; by default as in pytorch_GAN_zoo (WGAN-GP with drift), except for the
            average's half-life.
    """

    discriminator: Discriminator

    def __init__(
        self,
        data_shape: Sequence[int],
        num_classes: int = 0,
        channel_base: int = 16384,
        channel_max: int = 512,
        latent_dim: int = 512,
        minibatch_group: int | None = 4,
        conditional: bool = False,
        stable_kimg: float | list[float] = 600.0,
        fade_kimg: float | list[float] = 600.0,
        batch_factors: list[int] | None = None,
        adversarial: AdversarialTraining | None = None,
    ) -> None:
        channels, resolution = square_pictures(data_shape, "ProGAN", least=4)
        check_minibatch_group(minibatch_group)
        stages = resolution.bit_length() - 2
        widths = stage_widths(channel_base, channel_max, resolution)
        stable, fade = _each("stable_kimg", stable_kimg, stages - 1), _each("fade_kimg", fade_kimg, stages - 1)
        factors = [1] * stages if batch_factors is None else batch_factors
        if len(factors) != stages or min(factors) < 1:
            raise ValueError(
                f"batch_factors needs {stages} numbers from 1 up, for 4 px to {resolution} px, not {factors}"
            )
        classes = classes_seen(num_classes, conditional)
        generator = Generator(latent_dim, widths, channels, classes)
        discriminator = Discriminator(widths, channels, classes, minibatch_group)
        if adversarial is None:
            loss, penalty = Wasserstein(drift=0.001), GradientPenalty(10.0)
            adversarial = AdversarialTraining(loss, [penalty], lr=1e-3, beta1=0.0, beta2=0.99)
        super().__init__(data_shape, num_classes, generator, discriminator, latent_dim, adversarial)
        self.channel_base, self.channel_max = channel_base, channel_max
        self.minibatch_group, self.conditional = minibatch_group, conditional
        self.stable_kimg, self.fade_kimg, self.batch_factors = stable_kimg, fade_kimg, batch_factors
        self._factors = factors
        self._fades = [0, *(round(1000 * kimg) for kimg in fade)]
        starts = [0]
        for faded, alone in zip(self._fades, stable, strict=False):
            starts.append(starts[-1] + faded + round(1000 * alone))
        self.stage_starts = tuple(starts)
        self.grow()

    def discriminator_layers(self) -> list[nn.Module]:
        """The layers of the final size, from its picture on; a smaller model does not use the first of them yet."""
        network = self.discriminator
        return [
            network.from_rgb[-1],
            *(layer for block in reversed(network.blocks) for layer in layers_within(block)),
        ]

    # The schedule.

    def stage_at(self, samples_seen: int) -> int:
        """The stage, from 0 for 4 px up, of the step that begins after `samples_seen`."""
        return bisect.bisect_right(self.stage_starts, samples_seen) - 1

    def alpha_at(self, samples_seen: int) -> float:
        """How far that stage has faded in, from 0 to 1."""
        stage = self.stage_at(samples_seen)
        into = samples_seen - self.stage_starts[stage]
        return into / self._fades[stage] if into < self._fades[stage] else 1.0

    def samples_per_step(self, samples_seen: int, least: int) -> int:
        stage = self.stage_at(samples_seen)
        samples = least * self._factors[stage]
        if stage + 1 == len(self.stage_starts):
            return samples
        left = self.stage_starts[stage + 1] - samples_seen
        return min(samples, math.ceil(left / least) * least)

    def grow(self) -> None:
        """Sets the networks' stage and fade from the samples seen."""
        for network in self.modules():
            if isinstance(network, Growing):
                network.stage, network.alpha = self.stage_at(self.samples_seen), self.alpha_at(self.samples_seen)

    def count(self, batch: int) -> None:
        super().count(batch)
        self.grow()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.grow()

    # Pictures at the stage's size, and at the final size.

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """The step of every GAN, on real pictures at the stage's size."""
        super().training_step((self.of_the_stage(batch[0]), batch[1]), batch_idx)

    def of_the_stage(self, x: Tensor) -> Tensor:
        """Pictures of `data_shape` at the stage's size, averaged over squares; less detailed while it fades in.

        The new resolution's detail fades in with alpha, so that no player sees more detail than the generator can draw.
        """
        stage, alpha = self.stage_at(self.samples_seen), self.alpha_at(self.samples_seen)
        shrink = x.shape[-1] // (4 * 2**stage)
        x = F.avg_pool2d(x, shrink) if shrink > 1 else x
        return torch.lerp(doubled(F.avg_pool2d(x, 2)), x, alpha) if alpha < 1 else x

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        """How real the discriminator finds pictures (N, *data_shape), (N,); its minibatch statistic is of these."""
        return super().logits(self.of_the_stage(x), y)

    def deployed(self, settings: GANSettings | None = None) -> Deployed:
        """The generator at its current stage; its pictures still have `data_shape`."""
        draw = functools.partial(pictures, size=self.data_shape[1:])
        return Deployed(self.sampled_network(settings or GANSettings()), draw)

    def from_latents(self, latents: Tensor, labels: Tensor, settings: GANSettings) -> Tensor:
        return pictures(self.sampled_network(settings), latents.to(self.dtype), labels, self.data_shape[1:])


def pictures(generator: nn.Module, z: Tensor, labels: Tensor, size: Sequence[int]) -> Tensor:
    """The generator's pictures at its stage, clamped to [-1, 1], since it ends in a linear layer, and enlarged."""
    return F.interpolate(generator(z, labels).clamp(-1, 1), tuple(size), mode="nearest")


def _each(name: str, kimg: float | list[float], count: int) -> list[float]:
    """The `count` numbers of a setting that may be one number for all. ValueError if they do not fit."""
    values = kimg if isinstance(kimg, list) else [kimg] * count
    if len(values) != count or any(value < 0 for value in values):
        raise ValueError(f"{name} needs one number, or {count} for this resolution, none of them negative, not {kimg}")
    return values

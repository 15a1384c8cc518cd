"""Normalizing flows: RealNVP (Dinh, Sohl-Dickstein & Bengio 2017) and Glow (Kingma & Dhariwal 2018).

python main.py fit --config configs/glow_fashion_mnist.yaml

A flow is a bijection f between data and standard normal noise, with log p(x) = log N(f(x); 0, 1) + log |det df/dx|. It
is trained on that, and sampled by its inverse. Pictures are dequantised: uniform noise is added to their bytes. For
vectors, such as points in the plane, both models are one level of couplings, without dequantisation.

Departures from the papers and their code. RealNVP: the batch norms between couplings are ActNorms, set from the first
batch (a density must not depend on its batch). The batch norms within its networks, the mask as their input, and the
penalty on weight norms' scales are left out, and the last convolution starts at zero. A coupling scales and then
shifts, as in the paper's eq. 9; the code shifts first. The range of scales is a number per channel that starts at 1;
the code has one per coupling.

Glow: couplings scale by no less than `least_scale`. The code (openai/glow) also tells every 3x3 convolution where the
picture's border is, by another channel, and learns the last level's mean and scale (`learntop`), here those of standard
noise. It keeps a third of an ActNorm's log-scale as the parameter, so that Adam's steps are larger. Its 1x1
convolutions are whole matrices; here they are LU, as in the paper's section 3.2.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from media.pictures import LEVELS
from models.parts.arguments import UNKNOWN_DATA, at_least, picture_shape
from models.parts.flow_layers import (
    ActNorm,
    Chain,
    GlowCoupling,
    Invertible,
    InvertibleLinear,
    Logit,
    MaskedCoupling,
    MultiScale,
    Split,
    Squeeze,
    checkerboard,
    half_of,
    half_of_squeezed,
    initializing,
)
from models.parts.flow_networks import ResidualNetwork, ZeroConv2d, glow_network, vector_network
from models.parts.output_distributions import DEQUANTIZED_LOG_WIDTH, dequantized
from models.training.capabilities import Encodes, HasLatents, HasLikelihood
from models.training.randomness import normals
from models.training.single_loss import SingleLoss
from settings.likelihood import LikelihoodSettings
from settings.sampling import FlowSettings
from settings.training import Optimization

TO_CONTINUOUS = (LEVELS - 1) / LEVELS
"""Pictures in [-1, 1] times this lie in the middle of the intervals that `dequantized` spreads their bytes over."""


class Flow(SingleLoss, HasLatents, Encodes, HasLikelihood):
    """Everything that RealNVP and Glow share, that is all but the network.

    The latent is the noise, (N, D), with that of the finest scale first; D is the number of values in a sample.
    """

    settings_class: ClassVar[type[FlowSettings]] = FlowSettings
    network: MultiScale

    def __init__(
        self, data_shape: Sequence[int], num_classes: int, network: MultiScale, optimization: Optimization
    ) -> None:
        super().__init__(data_shape, num_classes, network, optimization)
        self.latent_dim = math.prod(self.data_shape)
        self.of_pictures = len(self.data_shape) == 3

    # Density.

    def log_density(self, values: Tensor, weights: str = "raw") -> Tensor:
        """log p of continuous values (N, *data_shape), in nats: float32 (N,), or float64 like the network."""
        network = self.chosen_network(weights)
        if self.of_pictures:
            values = values.contiguous(memory_format=torch.channels_last)
        noise, log_det = network(values)
        return log_det - 0.5 * (noise.square().sum(1) + self.latent_dim * math.log(2 * math.pi))

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        """-log p in bits per dimension, (N,): for pictures, a bound for their bytes; for vectors, of their density."""
        bits = -self._training_log_prob(x) / (self.latent_dim * math.log(2))
        self.observe("train_bits_per_dim", bits)
        return bits

    def on_first_batch(self, x: Tensor, labels: Tensor) -> None:
        with initializing(self.network):
            self._training_log_prob(x)

    def _training_log_prob(self, x: Tensor) -> Tensor:
        return self._with_noise(x, torch.rand_like(x), "raw") if self.of_pictures else self.log_density(x)

    def _with_noise(self, x: Tensor, noise: Tensor, weights: str) -> Tensor:
        """log p of dequantised pictures times the volume that their bytes are spread over, (N,)."""
        values = dequantized(x, noise).to(self.dtype)
        return self.log_density(values, weights) + self.latent_dim * DEQUANTIZED_LOG_WIDTH

    @property
    def likelihood_kind(self) -> str:
        return "lower bound, uniform dequantisation" if self.of_pictures else "exact"

    def log_likelihood(
        self, x: Tensor, labels: Tensor, generators: Sequence[torch.Generator], settings: LikelihoodSettings
    ) -> Tensor:
        """The density of vectors. For pictures log 1/K sum_k p(x + u_k) times the bytes' volume, K = `settings.draws`.

        E log of the mean is at most log of the E: a lower bound for every K, which more draws tighten.
        """
        if not self.of_pictures:
            return self.log_density(x.to(self.dtype), settings.weights)
        draws = []
        for _ in range(settings.draws):
            noise = torch.stack([torch.rand(self.data_shape, generator=generator) for generator in generators])
            draws.append(self._with_noise(x, noise.to(x.device), settings.weights))
        return torch.stack(draws).double().logsumexp(0) - math.log(settings.draws)

    # Sampling.

    def latents_from(self, generators: Sequence[torch.Generator], settings: FlowSettings) -> Tensor:
        return (settings.temperature * normals(generators, self.latent_dim)).to(self.device, non_blocking=True)

    def from_latents(self, latents: Tensor, labels: Tensor, settings: FlowSettings) -> Tensor:
        values = self.chosen_network(settings.weights).inverse(latents.to(self.dtype))
        # A trained flow puts next to nothing outside [-1, 1]; an untrained one may put anything there.
        return (values / TO_CONTINUOUS).clamp(-1, 1) if self.of_pictures else values

    def to_latents(self, x: Tensor, labels: Tensor, settings: FlowSettings) -> Tensor:
        """The latents of vectors, or of the middle of each byte's interval. A flow loses nothing of x."""
        values = (x * TO_CONTINUOUS if self.of_pictures else x).to(self.dtype)
        return self.chosen_network(settings.weights)(values)[0]


class RealNVP(Flow):
    """RealNVP: couplings under checkerboard masks, squeezed, and under channel masks, at several scales.

    Each scale but the last (section 3.6) has `couplings` of both kinds, with the squeeze between them, and half of the
    channels leave after it; the last has one more checkerboard coupling, and no squeeze. Vectors have one scale of
    couplings, whose masks alternately keep either half.

    Args:
        data_shape: (C, H, W) of pictures, (C,) of vectors.
        num_classes: number of classes in the data; not used.
        levels: scales; the picture's side is halved `levels` - 1 times. 1 for vectors.
        couplings: of each kind, in each scale.
        width: channels of the residual networks, or hidden units of the vectors' networks.
        blocks: residual blocks of each network; not used for vectors.
        widen: whether those channels double with each squeeze, as in the paper (section 3.6).
        alpha: how far pictures' values are kept from 0 and 1 before the logit.
        optimization: how it is trained.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        num_classes: int = 0,
        levels: int = 4,
        couplings: int = 3,
        width: int = 32,
        blocks: int = 4,
        widen: bool = False,
        alpha: float = 0.05,
        optimization: Optimization | None = None,
    ) -> None:
        if not 0 < alpha < 0.5:
            raise ValueError(f"alpha must lie between 0 and 0.5, not {alpha}")
        shape = _checked(data_shape, levels, halvings=levels - 1, width=width, couplings=couplings, blocks=blocks)
        chains, splits, shapes = [], [], []
        channels = width
        for level in range(levels):
            last, layers = level == levels - 1, list[Invertible]()
            if len(shape) == 1:
                for i in range(couplings):
                    network = vector_network(shape[0], 2 * shape[0], width)
                    layers += [MaskedCoupling(half_of(shape, i % 2 == 0), shape[0], network), ActNorm(shape[0])]
            else:
                if level == 0:
                    layers.append(Logit(alpha))
                for i in range(couplings + last):
                    mask = checkerboard(shape[1], shape[2], first=i % 2 == 0)
                    layers += _realnvp_step(mask, shape[0], channels, blocks)
            if not last:
                layers.append(Squeeze())
                masks = [half_of_squeezed(shape[0], first) for first in (True, False)]
                shape = (4 * shape[0], shape[1] // 2, shape[2] // 2)
                channels = 2 * channels if widen else channels
                for i in range(couplings):
                    layers += _realnvp_step(masks[i % 2], shape[0], channels, blocks)
                splits.append(Split(None))
                shape = (shape[0] // 2, *shape[1:])
            chains.append(Chain(layers))
            shapes.append(shape)
        super().__init__(data_shape, num_classes, MultiScale(chains, splits, shapes), optimization or Optimization())
        self.levels, self.couplings, self.width, self.blocks = levels, couplings, width, blocks
        self.widen, self.alpha = widen, alpha


def _realnvp_step(mask: Tensor, channels: int, width: int, blocks: int) -> list[Invertible]:
    network = ResidualNetwork(channels, 2 * channels, width, blocks)
    return [MaskedCoupling(mask, channels, network), ActNorm(channels)]


class Glow(Flow):
    """Glow: levels of a squeeze and steps of ActNorm, invertible 1x1 convolution and affine coupling (its figure 2).

    Vectors have one level without a squeeze, matrices instead of 1x1 convolutions, and dense networks.

    Args:
        data_shape: (C, H, W) of pictures, (C,) of vectors.
        num_classes: number of classes in the data; not used.
        levels: L of the paper, how often the picture's side is halved. 1 for vectors.
        steps_per_level: K of the paper.
        width: hidden channels of the networks in the couplings.
        least_scale: least scale of a coupling, so that its inverse, and samples with it, stay finite; the paper's is 0,
            and such values often leave no sample intact before training is well advanced.
        optimization: how it is trained.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        num_classes: int = 0,
        levels: int = 3,
        steps_per_level: int = 32,
        width: int = 512,
        least_scale: float = 0.5,
        optimization: Optimization | None = None,
    ) -> None:
        if not 0 <= least_scale < 1:
            raise ValueError(f"least_scale must lie in [0, 1), not {least_scale}")
        shape = _checked(data_shape, levels, halvings=levels, width=width, steps_per_level=steps_per_level)
        chains, splits, shapes = [], [], []
        for level in range(levels):
            layers: list[Invertible] = []
            if len(shape) == 3:
                layers.append(Squeeze())
                shape = (4 * shape[0], shape[1] // 2, shape[2] // 2)
            make = glow_network if len(shape) == 3 else vector_network
            second = shape[0] // 2
            for _ in range(steps_per_level):
                network = make(shape[0] - second, 2 * second, width)
                layers += [ActNorm(shape[0]), InvertibleLinear(shape[0]), GlowCoupling(network, least_scale)]
            chains.append(Chain(layers))
            if level < levels - 1:
                splits.append(Split(ZeroConv2d(shape[0] - second, 2 * second)))
                shape = (shape[0] - second, *shape[1:])
            shapes.append(shape)
        super().__init__(data_shape, num_classes, MultiScale(chains, splits, shapes), optimization or Optimization())
        self.levels, self.steps_per_level, self.width = levels, steps_per_level, width
        self.least_scale = least_scale


def _checked(data_shape: Sequence[int], levels: int, halvings: int, **counts: int) -> tuple[int, ...]:
    """The shape of a sample. Raises ValueError, with its name, for an argument that does not fit it."""
    if data_shape is None:
        raise ValueError(UNKNOWN_DATA)
    at_least(1, levels=levels, **counts)
    if len(data_shape) == 1:
        if data_shape[0] < 2:
            raise ValueError("a coupling needs vectors of at least 2 values")
        if levels != 1:
            raise ValueError(f"vectors have one level, not {levels}: set levels to 1")
        return tuple(data_shape)
    channels, height, width = picture_shape(data_shape)
    if height % 2**halvings or width % 2**halvings:
        raise ValueError(
            f"levels: {levels} halves the side {halvings} times, but pictures of {height}x{width} cannot be: lower "
            "model.levels, or set data.resolution"
        )
    return channels, height, width

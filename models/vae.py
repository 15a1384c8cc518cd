"""VAE (Kingma & Welling 2014, arXiv:1312.6114) and β-VAE (Higgins et al. 2017), convolutional.

python main.py fit --config configs/vae_fashion_mnist.yaml
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.parts import output_distributions as distributions
from models.parts import variational
from models.parts.arguments import at_least, classes_seen, square_pictures
from models.parts.deployed import Deployed
from models.parts.layers import at_least_float32, one_hot
from models.parts.schedules import Schedule, value_at
from models.training.capabilities import Encodes, HasLatentWeights, HasLikelihood
from models.training.randomness import normals
from models.training.single_loss import SingleLoss
from settings.likelihood import LikelihoodSettings
from settings.sampling import VAESettings
from settings.training import Optimization

Likelihood: TypeAlias = Literal["discretized_logistic", "gaussian", "squared_error", "bernoulli"]
Scale: TypeAlias = float | Literal["pixel", "channel"]

LEAST_LOG_SCALE = -7.0
"""The least log-scale of a byte's distribution, as in PixelCNN++: the scale is then a quarter of a byte's bin."""

SMALLEST_SIDE = 4
"""Strided convolutions halve pictures while their side is even and greater than this: 28 to 7, 32 and 64 to 4."""


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))). It starts as the identity, so that no normalisation is needed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


def sides(side: int) -> list[int]:
    """The sides from the picture to the latent, the picture's first."""
    found = [side]
    while found[-1] % 2 == 0 and found[-1] > SMALLEST_SIDE:
        found.append(found[-1] // 2)
    return found


def widths(width: int, stages: int) -> list[int]:
    """Channels after each halving: doubled each time, up to four times the first."""
    return [width * min(2**stage, 4) for stage in range(stages)]


class Encoder(nn.Module):
    """Samples (N, C, H, H) to the mean and the log-variance of their latents' posterior, float32 (N, latent_dim)."""

    def __init__(self, channels: int, side: int, width: int, blocks: int, latent_dim: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        smallest = sides(side)[-1]
        layers: list[nn.Module] = []
        before = channels
        for after in widths(width, len(sides(side)) - 1):
            layers += [nn.ReLU()] if layers else []
            layers += [nn.Conv2d(before, after, 4, 2, 1), *(ResidualBlock(after) for _ in range(blocks))]
            before = after
        self.layers = nn.Sequential(*layers, nn.ReLU(), nn.Flatten())
        self.posterior = nn.Linear(before * smallest * smallest + classes, 2 * latent_dim)

    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.layers(x)
        if self.classes:
            features = torch.cat([features, one_hot(labels, self.classes).to(features.dtype)], dim=1)
        found = self.posterior(features)
        mean, log_variance = at_least_float32(found).chunk(2, 1)
        return mean, log_variance


class Decoder(nn.Module):
    """Latents (N, latent_dim) to the parameters (N, C, H, H) of their pictures' distribution, in float32.

    They are its mean (for a Bernoulli distribution, the logits) and the logarithm of its scale.
    """

    def __init__(
        self,
        channels: int,
        side: int,
        width: int,
        blocks: int,
        latent_dim: int,
        classes: int,
        likelihood: Likelihood,
        scale: Scale,
    ) -> None:
        super().__init__()
        self.classes, self.likelihood, self.scale = classes, likelihood, scale
        up = sides(side)[::-1]
        stages = widths(width, len(up) - 1)[::-1]
        self.start = nn.Linear(latent_dim + classes, stages[0] * up[0] * up[0])
        self.unflatten = nn.Unflatten(1, (stages[0], up[0], up[0]))
        layers: list[nn.Module] = []
        for before, after in zip(stages, [*stages[1:], width], strict=True):
            layers += [ResidualBlock(before) for _ in range(blocks)]
            layers += [nn.ReLU(), nn.ConvTranspose2d(before, after, 4, 2, 1)]
        outputs = 2 * channels if scale == "pixel" else channels
        self.layers = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(width, outputs, 3, padding=1))
        if scale == "channel":
            self.log_scale = nn.Parameter(torch.full((channels, 1, 1), math.log(0.25)))

    def forward(self, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if self.classes:
            z = torch.cat([z, one_hot(labels, self.classes).to(z.dtype)], dim=1)
        x = self.unflatten(self.start(z)).contiguous(memory_format=torch.channels_last)
        found = at_least_float32(self.layers(x))
        if self.scale == "pixel":
            mean, log_scale = found.chunk(2, 1)
        else:
            mean = found
            log_scale = self.log_scale if self.scale == "channel" else mean.new_tensor(math.log(self.scale))
        return mean, log_scale.clamp(min=LEAST_LOG_SCALE).expand_as(mean)

    def pictures(self, z: Tensor, labels: Tensor) -> Tensor:
        """The means of the pictures' distributions, (N, C, H, H) in [-1, 1]."""
        mean, _ = self(z, labels)
        return 2 * mean.sigmoid() - 1 if self.likelihood == "bernoulli" else mean.clamp(-1, 1)

    def log_likelihood(self, x: Tensor, z: Tensor, labels: Tensor) -> Tensor:
        """log p(x | z) in nats, (N,)."""
        mean, log_scale = self(z, labels)
        if self.likelihood == "bernoulli":
            found = distributions.bernoulli(x, mean)
        elif self.likelihood == "squared_error":
            found = -0.5 * ((x - mean) * torch.exp(-log_scale)).square()
        else:
            distribution = distributions.gaussian if self.likelihood == "gaussian" else distributions.logistic
            found = distribution(x, mean, log_scale)
        return found.flatten(1).sum(1)


class Autoencoder(nn.Module):
    """Both networks."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder


class VAE(SingleLoss, HasLatentWeights, Encodes, HasLikelihood):
    """A decoder from a latent with a normal prior to pictures, and an encoder that finds its normal posterior.

    The loss of a picture, in nats, is -E[log p(x | z)] + beta KL(q(z | x) ‖ p(z)), with one sample of z. Nothing is
    normalised over batches, so a picture's loss depends on itself alone.

    Args:
        data_shape: (C, H, W); H = W, even and at least 8: 28, 32, 64, ...
        num_classes: number of classes in the data; used if `conditional`.
        width: channels of the stage next to the picture; the next ones have twice, then four times as many.
        blocks: residual blocks per stage, in both networks.
        latent_dim: size of the latent.
        beta: weight of the divergence (Higgins et al. 2017), or a schedule of it; 1 is the bound itself.
        free_nats: divergence of each latent dimension, averaged over a micro-batch, that costs nothing, so that
            dimensions are not given up (Kingma et al. 2016; a bit is log 2 = 0.69 nats). 0 for none.
        likelihood: of a picture given its latent. discretized_logistic, gaussian: distributions cut into the 256 bins
            of bytes. squared_error: the sum of squares over 2 scale^2, a normal density up to a constant, as in most
            published VAEs. bernoulli: the cross-entropy of values taken as probabilities. The last two are no
            probabilities of bytes, so such models have no bits per dimension.
        scale: the distribution's scale in [-1, 1]: "pixel" if the decoder predicts it, "channel" for a learned one per
            channel, or a number. bernoulli has none, and squared_error takes only a number.
        conditional: whether both networks see the labels (Sohn, Lee & Yan 2015).
        optimization: how it is trained; by default Adam at 1e-3.
    """

    settings_class: ClassVar[type[VAESettings]] = VAESettings
    likelihood_kind = "lower bound, of `draws` importance samples from the encoder (1: the ELBO, more: IWAE)"
    network: Autoencoder

    def __init__(
        self,
        data_shape: Sequence[int],
        num_classes: int = 0,
        width: int = 32,
        blocks: int = 1,
        latent_dim: int = 64,
        beta: float | Schedule = 1.0,
        free_nats: float = 0.0,
        likelihood: Likelihood = "discretized_logistic",
        scale: Scale = "pixel",
        conditional: bool = False,
        optimization: Optimization | None = None,
    ) -> None:
        channels, side = square_pictures(data_shape, "a VAE", least=8, power=False)
        at_least(1, width=width, latent_dim=latent_dim)
        at_least(0, blocks=blocks)
        if free_nats < 0:
            raise ValueError(f"free_nats must not be negative, not {free_nats}")
        if not isinstance(scale, str) and scale <= 0:
            raise ValueError(f"scale must be positive, not {scale}")
        if likelihood == "squared_error" and isinstance(scale, str):
            raise ValueError(
                f"likelihood: squared_error needs a number as scale, not {scale!r}: learned, a density without bins "
                "has no bound; set scale, or likelihood: gaussian"
            )
        classes = classes_seen(num_classes, conditional)
        used_scale: Scale = 1.0 if likelihood == "bernoulli" else scale
        network = Autoencoder(
            Encoder(channels, side, width, blocks, latent_dim, classes),
            Decoder(channels, side, width, blocks, latent_dim, classes, likelihood, used_scale),
        )
        super().__init__(data_shape, num_classes, network, Optimization() if optimization is None else optimization)
        self.width, self.blocks, self.latent_dim = width, blocks, latent_dim
        self.beta, self.free_nats = beta, free_nats
        self.likelihood, self.scale = likelihood, scale
        self.conditional = conditional

    # Training.

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        mean, log_variance = self.network.encoder(x, labels)
        z = variational.reparametrize(mean, log_variance, torch.randn_like(mean))
        reconstruction = -self.network.decoder.log_likelihood(x, z, labels)
        divergence = variational.divergence_from_prior(mean, log_variance)
        self._report(reconstruction, divergence, mean)
        beta = value_at(self.beta, self.samples_seen)
        return reconstruction + beta * variational.with_free_bits(divergence, self.free_nats)

    @torch.no_grad()
    def _report(self, reconstruction: Tensor, divergence: Tensor, mean: Tensor) -> None:
        divergence = divergence.sum(1)
        self.observe("reconstruction", reconstruction)
        self.observe("kl", divergence)
        self.observe("active_units", variational.active_units(mean))
        if self.why_no_likelihood is None:
            self.observe(
                "train_bits_per_dim", (reconstruction + divergence) / (math.log(2) * math.prod(self.data_shape))
            )

    # The contract.

    def networks(self) -> dict[str, nn.Module]:
        return {"encoder": self.network.encoder, "decoder": self.network.decoder}

    # Latents.

    def latents_from(self, generators: Sequence[torch.Generator], settings: VAESettings) -> Tensor:
        return self._normals(generators) * settings.temperature

    def _normals(self, generators: Sequence[torch.Generator]) -> Tensor:
        """The next standard normal latent of each generator, (N, latent_dim)."""
        return normals(generators, self.latent_dim).to(self.device).to(self.dtype)

    def from_latents(self, latents: Tensor, labels: Tensor, settings: VAESettings) -> Tensor:
        """The decoder's means."""
        return self.chosen_network(settings.weights).decoder.pictures(latents.to(self.dtype), labels)

    def to_latents(self, x: Tensor, labels: Tensor, settings: VAESettings) -> Tensor:
        """The posterior's means."""
        return self.chosen_network(settings.weights).encoder(x.to(self.dtype), labels)[0].float()

    def latent_weights(self, settings: VAESettings | None = None) -> Tensor:
        """The decoder's first linear map, (features, latent_dim), without the classes."""
        weight: Tensor = self.chosen_network((settings or VAESettings()).weights).decoder.start.weight
        return weight.detach()[:, : self.latent_dim]

    def deployed(self, settings: VAESettings | None = None) -> Deployed:
        """A standalone copy of the averaged decoder (or the raw one, if the settings say so), for `export`."""
        return Deployed(self.chosen_network((settings or VAESettings()).weights).decoder, Decoder.pictures)

    # The likelihood.

    @property
    def why_no_likelihood(self) -> str | None:
        if self.likelihood not in ("bernoulli", "squared_error"):
            return None
        return (
            f"a VAE with likelihood {self.likelihood} gives bytes no probability, and so no bits per dimension: "
            "train one with model.likelihood discretized_logistic or gaussian"
        )

    def log_likelihood(
        self, x: Tensor, labels: Tensor, generators: Sequence[torch.Generator], settings: LikelihoodSettings
    ) -> Tensor:
        network = self.chosen_network(settings.weights)
        x = x.to(self.dtype)
        mean, log_variance = network.encoder(x, labels)
        log_weights = []
        for _ in range(settings.draws):
            z = variational.reparametrize(mean, log_variance, self._normals(generators))
            ratio = variational.normal_log_density(z) - variational.normal_log_density(z, mean, log_variance)
            log_weights.append(network.decoder.log_likelihood(x, z, labels).double() + ratio.double().sum(1))
        return variational.importance_bound(torch.stack(log_weights))

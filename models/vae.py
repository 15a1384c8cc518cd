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
from models.parts.arguments import classes_seen, square_pictures
from models.parts.deployed import Deployed
from models.parts.layers import one_hot
from models.parts.schedules import Schedule, value_at
from models.parts.variational import (
    active_units,
    divergence_from_prior,
    importance_bound,
    normal_log_density,
    reparametrize,
    with_free_bits,
)
from models.training.capabilities import Encodes, HasLatentWeights, HasLikelihood
from models.training.randomness import normals
from models.training.single_loss import SingleLoss
from settings.likelihood import LikelihoodSettings
from settings.sampling import VAESettings
from settings.training import Optimization

Likelihood: TypeAlias = Literal["discretized_logistic", "gaussian", "squared_error", "bernoulli"]
Scale: TypeAlias = float | Literal["pixel", "channel"]

LEAST_LOG_SCALE = -7.0
"""Below this a scale of a byte's distribution is cut off, as in PixelCNN++: a quarter of a byte's bin."""

SMALLEST_SIDE = 4
"""Strided convolutions halve pictures while their side is even and greater than this: 28 to 7, 32 and 64 to 4."""


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))); it begins as the identity, so that no normalisation is needed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


def sides(side: int) -> list[int]:
    """The sides that pictures pass through on their way to the latent, the picture's first."""
    found = [side]
    while found[-1] % 2 == 0 and found[-1] > SMALLEST_SIDE:
        found.append(found[-1] // 2)
    return found


def widths(width: int, stages: int) -> list[int]:
    """Channels after each halving: doubled each time, to no more than four times the first."""
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
        mean, log_variance = found.to(torch.promote_types(found.dtype, torch.float32)).chunk(2, 1)
        return mean, log_variance


class Decoder(nn.Module):
    """Latents (N, latent_dim) to the parameters (N, C, H, H) of their pictures' distribution.

    They are its mean (the logits, of a Bernoulli distribution) and the logarithm of its scale, in float32.
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
        found = self.layers(x)
        found = found.to(torch.promote_types(found.dtype, torch.float32))
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
    """A latent of normal prior, a decoder to pictures, and an encoder that finds its normal posterior.

    The loss of a picture, in nats, is -E[log p(x | z)] + beta KL(q(z | x) ‖ p(z)), with one draw of z. Nothing is
    normalised by batches, so that a picture's loss depends on itself alone.

    Args:
        data_shape: (C, H, W); H = W, even and at least 8: 28, 32, 64, ...
        num_classes: classes of the data; used where `conditional`.
        width: channels of the stage next to the picture; those after it have twice, then four times as many.
        blocks: residual blocks a stage, in either network.
        latent_dim: size of the latent.
        beta: weight of the divergence (Higgins et al. 2017), or a schedule of it; 1 is the bound itself.
        free_nats: what each latent dimension may diverge for nothing, averaged over a micro-batch: it keeps dimensions
            from being given up (Kingma et al. 2016; a bit is log 2 = 0.69 nats). 0 for none.
        likelihood: of a picture given its latent. discretized_logistic, gaussian: distributions cut into the 256 bins
            of bytes. squared_error: the sum of squares over 2 scale^2, a normal density's but for a constant, as most
            published VAEs have it. bernoulli: the cross-entropy of values taken as probabilities. The last two are no
            probabilities of bytes: such models have no bits a dimension.
        scale: the distribution's scale in [-1, 1]: "pixel" where the decoder predicts it, "channel" for a learned one
            a channel, or a number. bernoulli has none, and squared_error takes only a number.
        conditional: whether both networks see the labels (Sohn, Lee & Yan 2015).
        optimization: how it is trained; Adam at 1e-3 where left out.
    """

    settings_class: ClassVar[type[VAESettings]] = VAESettings

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
        _check(width, blocks, latent_dim, free_nats, likelihood, scale)
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
        encoder, decoder = self._networks("raw")
        mean, log_variance = encoder(x, labels)
        z = reparametrize(mean, log_variance, torch.randn_like(mean))
        reconstruction = -decoder.log_likelihood(x, z, labels)
        divergence = divergence_from_prior(mean, log_variance)
        self._report(reconstruction, divergence, mean)
        beta = value_at(self.beta, self.samples_seen)
        return reconstruction + beta * with_free_bits(divergence, self.free_nats)

    @torch.no_grad()
    def _report(self, reconstruction: Tensor, divergence: Tensor, mean: Tensor) -> None:
        divergence = divergence.sum(1)
        self.observe("reconstruction", reconstruction)
        self.observe("kl", divergence)
        self.observe("active_units", active_units(mean))
        if self.why_no_likelihood is None:
            self.observe(
                "train_bits_per_dim", (reconstruction + divergence) / (math.log(2) * math.prod(self.data_shape))
            )

    # The contract.

    def networks(self) -> dict[str, nn.Module]:
        encoder, decoder = self._networks("raw")
        return {"encoder": encoder, "decoder": decoder}

    def _networks(self, weights: str) -> tuple[Encoder, Decoder]:
        network = self.chosen_network(weights)
        assert isinstance(network, Autoencoder)
        return network.encoder, network.decoder

    # Latents.

    def latents_from(self, generators: Sequence[torch.Generator], settings: VAESettings) -> Tensor:
        return self._normals(generators) * settings.temperature

    def _normals(self, generators: Sequence[torch.Generator]) -> Tensor:
        """The next standard normal latent of each generator, (N, latent_dim)."""
        return normals(generators, self.latent_dim).to(self.device).to(self.dtype)

    def from_latents(self, latents: Tensor, labels: Tensor, settings: VAESettings) -> Tensor:
        """The decoder's means."""
        return self._networks(settings.weights)[1].pictures(latents.to(self.dtype), labels)

    def to_latents(self, x: Tensor, labels: Tensor, settings: VAESettings) -> Tensor:
        """The posterior's means."""
        return self._networks(settings.weights)[0](x.to(self.dtype), labels)[0].float()

    def latent_weights(self, settings: VAESettings | None = None) -> Tensor:
        """What the decoder's first layer makes of a latent: (features, latent_dim), classes left out."""
        weight = self._networks((settings or VAESettings()).weights)[1].start.weight
        return weight.detach()[:, : self.latent_dim]

    def deployed(self, settings: VAESettings | None = None) -> Deployed:
        """A copy of the averaged decoder (the raw one, if the settings say so) that stands by itself, for `export`."""
        return Deployed(self._networks((settings or VAESettings()).weights)[1], Decoder.pictures)

    # The likelihood.

    @property
    def likelihood_kind(self) -> str:
        return "lower bound, of `draws` importance samples from the encoder (1: the ELBO, more: IWAE)"

    @property
    def why_no_likelihood(self) -> str | None:
        if self.likelihood not in ("bernoulli", "squared_error"):
            return None
        return (
            f"a VAE of likelihood {self.likelihood} gives bytes no probability, and so no bits a dimension: "
            "train one with model.likelihood discretized_logistic or gaussian"
        )

    def log_likelihood(
        self, x: Tensor, labels: Tensor, generators: Sequence[torch.Generator], settings: LikelihoodSettings
    ) -> Tensor:
        encoder, decoder = self._networks(settings.weights)
        x = x.to(self.dtype)
        mean, log_variance = encoder(x, labels)
        log_weights = []
        for _ in range(settings.draws):
            z = reparametrize(mean, log_variance, self._normals(generators))
            ratio = normal_log_density(z) - normal_log_density(z, mean, log_variance)
            log_weights.append(decoder.log_likelihood(x, z, labels).double() + ratio.double().sum(1))
        return importance_bound(torch.stack(log_weights))


def _check(width: int, blocks: int, latent_dim: int, free_nats: float, likelihood: Likelihood, scale: Scale) -> None:
    for name, value, least in (("width", width, 1), ("blocks", blocks, 0), ("latent_dim", latent_dim, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
    if free_nats < 0:
        raise ValueError(f"free_nats must not be negative, and is {free_nats}")
    if not isinstance(scale, str) and scale <= 0:
        raise ValueError(f"scale must be positive, not {scale}")
    if likelihood == "squared_error" and isinstance(scale, str):
        raise ValueError(
            f"likelihood: squared_error needs a number as scale, not {scale!r}: learned, a density without bins "
            "has no bound; set scale, or likelihood: gaussian"
        )

"""VAE-GAN (Larsen, Sønderby, Larochelle & Winther 2016, arXiv:1512.09300), with the losses of the authors' code.

python main.py fit --config configs/vaegan_fashion_mnist.yaml

It departs from andersbll/autoencoding_beyond_pixels as follows. The discriminator is updated before the other two
players, as in every GAN here; theirs are simultaneous. No player waits while another is ahead (their margin of 0.35
around a loss of 0.68). The decoder's pass over the prior's latents has its own batch statistics. There is no weight
decay. The encoder ends in 2048 units as in the paper (their code has 1024), and the channels are the same at every size
(they have 192 for 256 in places at 32 px).
"""

import itertools
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.parts import output_distributions as distributions
from models.parts.arguments import picture_shape
from models.parts.layers import BatchNorm2d, at_least_float32
from models.parts.variational import divergence_from_prior, importance_bound, normal_log_density, reparametrize
from models.training.capabilities import Encodes, HasLikelihood
from models.training.ema import WeightAverage
from models.training.gan import GAN
from settings.likelihood import LikelihoodSettings
from settings.sampling import GANSettings, SamplerSettings
from settings.training import AdversarialTraining


def stages(side: int) -> int:
    """How often the picture's side is halved: at most three times, to no less than 4 px: 64 -> 8, 32 -> 4, 28 -> 7."""
    return next(n for n in (3, 2) if side % 2**n == 0 and side // 2**n >= 4)


def _normalised(channels: int) -> list[nn.Module]:
    return [BatchNorm2d(channels), nn.ReLU(inplace=True)]


def _connected(inputs: int, outputs: int) -> list[nn.Module]:
    """A linear layer (N, inputs) to (N, outputs), with batch norm and ReLU."""
    linear = nn.Linear(inputs, outputs, bias=False)
    return [linear, nn.Unflatten(1, (outputs, 1, 1)), *_normalised(outputs), nn.Flatten()]


class Encoder(nn.Module):
    """Samples (N, channels, side, side) to the mean and the log-variance, (N, latent_dim) each, of q(z | x)."""

    def __init__(self, latent_dim: int, width: int, channels: int, side: int) -> None:
        super().__init__()
        n = stages(side)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise([channels, *(width * m for m in (1, 2, 4)[:n])]):
            layers += [nn.Conv2d(before, after, 5, 2, 2, bias=False), *_normalised(after)]
        self.layers = nn.Sequential(*layers, nn.Flatten(), *_connected(after * (side >> n) ** 2, 32 * width))
        self.mean, self.log_variance = nn.Linear(32 * width, latent_dim), nn.Linear(32 * width, latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.layers(x)
        return at_least_float32(self.mean(h)), at_least_float32(self.log_variance(h))


class Generator(nn.Module):
    """The decoder: latents (N, latent_dim) to samples (N, channels, side, side) in [-1, 1]. It reads no labels."""

    def __init__(self, latent_dim: int, width: int, channels: int, side: int) -> None:
        super().__init__()
        n = stages(side)
        start, seed = side >> n, 4 * width
        layers: list[nn.Module] = [*_connected(latent_dim, seed * start**2), nn.Unflatten(1, (seed, start, start))]
        widths = [seed, *(4 * width, 2 * width, width // 2)[3 - n :]]
        for before, after in itertools.pairwise(widths):
            layers += [nn.ConvTranspose2d(before, after, 5, 2, 2, 1, bias=False), *_normalised(after)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], channels, 5, padding=2), nn.Tanh())

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.layers(z)


class Discriminator(nn.Module):
    """Samples (N, channels, side, side) to logits (N,), and to features on the way. It reads no labels.

    `feature_layer` is the convolution of stride 2, counted from 1, whose output, before its batch norm, is Dis_l(x), as
    in the authors' code: 3 for CelebA and 2 for CIFAR-10. The paper's networks have width 64.
    """

    def __init__(self, width: int, channels: int, side: int, feature_layer: int) -> None:
        super().__init__()
        n = stages(side)
        widths = [width // 2, *(width * m for m in (2, 4, 4)[:n])]
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 5, padding=2), nn.ReLU(inplace=True)]
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 5, 2, 2, bias=False), *_normalised(after)]
        layers += [nn.Flatten(), *_connected(widths[-1] * (side >> n) ** 2, 8 * width), nn.Linear(8 * width, 1)]
        end = 3 * feature_layer  # two layers at the picture, three per stage, the first of which is the convolution
        self.below, self.above = nn.Sequential(*layers[:end]), nn.Sequential(*layers[end:])

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.both(x)[1]

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, ...) and logits (N,)."""
        features = self.below(x)
        # ReLUs in place follow batch norms, so no layer overwrites the features themselves.
        return at_least_float32(features), at_least_float32(self.above(features).squeeze(1))


class PictureScale(nn.Module):
    """The log-scale per channel of the logistic distribution around a decoded picture, for `log_likelihood` alone."""

    GAIN = 30.0
    """How much faster than a weight it moves: Adam's steps are as long as the learning rate, and it has far to go."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scaled = nn.Parameter(torch.full((channels, 1, 1), -2.0 / self.GAIN))

    def forward(self) -> Tensor:
        """(C, 1, 1)."""
        return at_least_float32(self.scaled) * self.GAIN


class VAEGAN(GAN, Encodes, HasLikelihood):
    """A variational autoencoder whose decoder is a GAN's generator and whose error is measured in D's features.

    Algorithm 1, with x~ = Dec(z), z ~ q(z | x), and a fake Dec(z_p), z_p ~ N(0, I): the encoder minimises
    L_prior + L_llike, the decoder gamma L_llike + its adversarial losses of x~ and of the fake, the discriminator the
    mean of its losses of the pairs (x, x~) and (x, fake). The two fakes together thus weigh as much as the real
    picture, as in the authors' code by default (`real_vs_gen_weight` 0.5; in its configs 0.66); in the paper's sum each
    counts once.

    As in the authors' code, the discriminator sees everything that it compares in one pass, normalised by the same
    statistics.

    Parameters for 3 x 64 x 64 with the defaults: 4,693,155, 10,953,857 and the encoder's 35,112,768.

    Args:
        data_shape: (C, H, W); H = W, 16 to 64 px and divisible by 4.
        num_classes: number of classes in the data; labels are not used.
        width: channels of the encoder's first layer, of which all others have multiples; 64 in the paper. Even.
        latent_dim: size of the latent, 128 in the paper.
        gamma: weight of L_llike, a sum over features, against the decoder's adversarial loss: 1e-5 for CelebA in the
            authors' code, 5e-6 for CIFAR-10 (`recon_vs_gan_weight` w, gamma = w / (1 - w)).
        feature_layer: the l of Dis_l, as `Discriminator` counts; by default the last convolution.
        adversarial: how the players are trained. The default, Adam without momentum at 3e-4 with decay 0.9, is RMSProp
            with bias correction. The loss is non-saturating by default; `losses.Minimax` is the paper's.
    """

    joint_pass: ClassVar[bool] = True
    likelihood_kind = (
        "lower bound, of importance weighting (one draw: the ELBO) under a discretised logistic around the decoded "
        "picture, scale fitted beside the networks"
    )
    discriminator: Discriminator

    def __init__(
        self,
        data_shape: Sequence[int],
        num_classes: int = 0,
        width: int = 64,
        latent_dim: int = 128,
        gamma: float = 1e-5,
        feature_layer: int | None = None,
        adversarial: AdversarialTraining | None = None,
    ) -> None:
        channels, height, side = picture_shape(data_shape)
        if height != side or not 16 <= side <= 64 or side % 4:
            raise ValueError(
                f"VAEGAN needs square pictures of 16 to 64 px, divisible by 4, not {height}x{side}: set data.resolution"
            )
        if width < 2 or width % 2:
            raise ValueError(f"width of VAEGAN must be even and positive, not {width}")
        if gamma < 0:
            raise ValueError(f"gamma must not be negative, not {gamma}")
        layer = stages(side) if feature_layer is None else feature_layer
        if not 1 <= layer <= stages(side):
            raise ValueError(f"feature_layer must be 1 to {stages(side)} at {side} px, not {feature_layer}")
        if adversarial is None:
            adversarial = AdversarialTraining(lr=3e-4, beta1=0.0, beta2=0.9)
        if adversarial.augmentation is not None:
            raise ValueError(
                "VAEGAN compares a picture with its reconstruction in the discriminator, and an augmentation would "
                "change them differently: leave adversarial.augmentation out"
            )
        generator = Generator(latent_dim, width, channels, side)
        discriminator = Discriminator(width, channels, side, layer)
        super().__init__(data_shape, num_classes, generator, discriminator, latent_dim, adversarial)
        self.width, self.gamma, self.feature_layer = width, gamma, feature_layer
        self.encoder = Encoder(latent_dim, width, channels, side).to(memory_format=torch.channels_last)
        self.encoder_average = WeightAverage(self.encoder)
        self.scale = PictureScale(channels)

    # Training.

    def networks(self) -> dict[str, nn.Module]:
        return {**super().networks(), "encoder": self.encoder, "scale": self.scale}

    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            mean, log_variance = self.encoder(real)
            z = reparametrize(mean, log_variance, self.training_latents(len(real)))
            rebuilt = self.generator(z, labels)
        on_real, on_rebuilt, on_fake = self.judge([real, rebuilt, fake], labels)
        for name, logits in (("d_real", on_real), ("d_rebuilt", on_rebuilt), ("d_fake", on_fake)):
            self.observe(name, logits)
        if self.zero_is_undecided:
            self.observe("r_t", on_real.sign())
        loss = self.adversarial.loss
        return 0.5 * (loss.discriminator(on_real, on_rebuilt) + loss.discriminator(on_real, on_fake))

    def generator_losses(self, fake: Tensor, real: Tensor, labels: Tensor) -> dict[str, Tensor]:
        mean, log_variance = self.encoder(real)
        z = reparametrize(mean, log_variance, self.training_latents(len(real)))
        rebuilt = self.generator(z, labels)
        features, logits = self.discriminator.both(torch.cat([real, rebuilt, fake]))
        of_real, of_rebuilt, _ = features.chunk(3)
        on_real, on_rebuilt, on_fake = logits.chunk(3)
        on_real, loss = on_real.detach(), self.adversarial.loss
        # -log N(Dis_l(x) | Dis_l(x~), I) up to its constant (eq. 7-8); the real side is a fixed target.
        distance = 0.5 * (of_rebuilt - of_real.detach()).square().flatten(1).sum(1)
        prior = divergence_from_prior(mean, log_variance).sum(1)
        self.observe("kl", prior)
        self.observe("feature_distance", distance)
        return {
            "generator": self.gamma * distance + loss.generator(on_rebuilt, on_real) + loss.generator(on_fake, on_real),
            "encoder": prior + distance,
            "scale": -self._log_likelihood(real, rebuilt.detach()).flatten(1).mean(1),
        }

    def _log_likelihood(self, x: Tensor, rebuilt: Tensor) -> Tensor:
        """log p(x | z) of each value of a picture, from the picture that z is decoded to."""
        with torch.autocast(self.device.type, enabled=False):
            return distributions.logistic(x, at_least_float32(rebuilt), self.scale())

    # Encoding and likelihood.

    def averages(self) -> dict[str, WeightAverage]:
        return {**super().averages(), "encoder average": self.encoder_average}

    def _encoder_of(self, settings: SamplerSettings | LikelihoodSettings) -> nn.Module:
        return self.encoder_average.module if settings.weights == "ema" else self.encoder

    def to_latents(self, x: Tensor, labels: Tensor, settings: GANSettings) -> Tensor:
        """The mean of q(z | x), (N, latent_dim)."""
        return self._encoder_of(settings)(x.to(self.dtype))[0]

    def log_likelihood(
        self, x: Tensor, labels: Tensor, generators: Sequence[torch.Generator], settings: LikelihoodSettings
    ) -> Tensor:
        """log p(x) >= E[log (1/k) sum p(x | z_i) p(z_i) / q(z_i | x)], with k = `settings.draws`."""
        decoder = self.sampled_network(GANSettings(weights=settings.weights))
        mean, log_variance = self._encoder_of(settings)(x.to(self.device).to(self.dtype))
        noise = torch.stack([torch.randn(settings.draws, self.latent_dim, generator=g) for g in generators], 1)
        log_weights = []
        for epsilon in noise.to(mean):
            z = reparametrize(mean, log_variance, epsilon)
            likelihood = self._log_likelihood(x.to(mean), decoder(z, labels)).flatten(1).sum(1)
            ratio = normal_log_density(z) - normal_log_density(z, mean, log_variance)
            log_weights.append(likelihood + ratio.sum(1))
        return importance_bound(torch.stack(log_weights))

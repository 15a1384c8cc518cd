"""DCGAN (Radford, Metz & Chintala 2016), in the form of the PyTorch examples.

python main.py fit --config configs/dcgan_fashion_mnist.yaml
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.parts.arguments import classes_seen, square_pictures
from models.parts.layers import BatchNorm2d, at_least_float32, one_hot
from models.training.capabilities import HasLatentWeights
from models.training.gan import GAN
from settings.sampling import GANSettings
from settings.training import AdversarialTraining


def _multipliers(resolution: int) -> list[int]:
    """Channel multipliers of the stages from 4 px up; 8, 4, 2, 1 at 64 px, as published; never above 8."""
    stages = int(math.log2(resolution)) - 2
    return [min(2**i, 8) for i in reversed(range(stages))]


class Generator(nn.Module):
    """Latents (N, latent_dim) to samples (N, channels, resolution, resolution) in [-1, 1]."""

    def __init__(self, latent_dim: int, width: int, channels: int, resolution: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        widths = [width * m for m in _multipliers(resolution)]
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent_dim + classes, widths[0], 4, 1, 0, bias=False)]
        for before, after in itertools.pairwise(widths):
            layers += [
                BatchNorm2d(before),
                nn.ReLU(inplace=True),
                nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False),
            ]
        layers += [
            BatchNorm2d(widths[-1]),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1, bias=False),
        ]
        self.layers = nn.Sequential(*layers, nn.Tanh())

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        if self.classes:
            z = torch.cat([z, one_hot(labels, self.classes)], dim=1)
        return self.layers(z[:, :, None, None])


class Discriminator(nn.Module):
    """Samples (N, channels, resolution, resolution) to logits (N,).

    If conditional, it has one output per class and reads the label's (Mescheder et al. 2018, appendix D).
    """

    def __init__(self, width: int, channels: int, resolution: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        widths = [width * m for m in reversed(_multipliers(resolution))]
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
        for before, after in itertools.pairwise(widths):
            layers += [
                nn.Conv2d(before, after, 4, 2, 1, bias=False),
                BatchNorm2d(after),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], max(classes, 1), 4, 1, 0, bias=False))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        logits = self.layers(x).flatten(1)
        logits = (logits.gather(1, labels[:, None]) if self.classes else logits).squeeze(1)
        return at_least_float32(logits)


class DCGAN(GAN, HasLatentWeights):
    """Deep convolutional GAN: 3,576,704 and 2,765,568 parameters at 64 px with the defaults.

    Args:
        data_shape: (C, H, W); H = W, a power of two from 16 up.
        num_classes: number of classes in the data; used if `conditional`.
        width: channels of the stage next to the picture (ngf and ndf of the PyTorch example).
        latent_dim: size of the latent (nz).
        conditional: whether both networks see the labels.
        adversarial: how the players are trained; by default as in the PyTorch example, plus an average.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        num_classes: int = 0,
        width: int = 64,
        latent_dim: int = 100,
        conditional: bool = False,
        adversarial: AdversarialTraining | None = None,
    ) -> None:
        channels, resolution = square_pictures(data_shape, "DCGAN", least=16)
        classes = classes_seen(num_classes, conditional)
        generator = Generator(latent_dim, width, channels, resolution, classes).apply(initialize)
        discriminator = Discriminator(width, channels, resolution, classes).apply(initialize)
        adversarial = AdversarialTraining(reuse_fakes=True) if adversarial is None else adversarial
        super().__init__(data_shape, num_classes, generator, discriminator, latent_dim, adversarial)
        self.width, self.conditional = width, conditional

    def latent_weights(self, settings: GANSettings | None = None) -> Tensor:
        """The first transposed convolution's map of a latent, (channels * 4 * 4, latent_dim), without the classes."""
        weight: Tensor = self.sampled_network(settings or GANSettings()).layers[0].weight
        return weight.detach()[: self.latent_dim].flatten(1).T


def initialize(layer: nn.Module) -> None:
    """Weights from N(0, 0.02), batch-norm scales from N(1, 0.02) (section 4 of the paper, and the PyTorch example)."""
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)

"""Adversarial losses. Each returns one value per sample, shape (N,); the caller reduces.

Logits are the discriminator's raw outputs, shape (N,); higher means "real".
"""

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor

from settings.configurable import Configurable


class AdversarialLoss(Configurable, ABC):
    """The pair of objectives that discriminator and generator minimise."""

    zero_is_undecided: bool = True
    """Whether a logit of 0 means that the discriminator cannot tell; otherwise only differences have a meaning."""
    needs_real_in_generator_step: bool = False
    """Whether the generator's loss also needs the discriminator's logits of real samples."""

    @abstractmethod
    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """The discriminator's loss of each pair, (N,)."""

    @abstractmethod
    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        """The generator's loss of each fake, (N,). `real_logits` is given if `needs_real_in_generator_step`."""


class NonSaturating(AdversarialLoss):
    """Goodfellow et al. 2014, section 3: binary cross-entropy, the generator maximising log D(G(z))."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return F.softplus(-real_logits) + F.softplus(fake_logits)

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        return F.softplus(-fake_logits)


class Minimax(NonSaturating):
    """Goodfellow et al. 2014, eq. 1: the generator minimises log(1 - D(G(z))), whose gradient fades as D improves."""

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        return -F.softplus(fake_logits)


class Hinge(AdversarialLoss):
    """Lim & Ye 2017, eq. 3-4, as SNGAN and BigGAN use it."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return F.relu(1 - real_logits) + F.relu(1 + fake_logits)

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        return -fake_logits


class Wasserstein(AdversarialLoss):
    """Arjovsky et al. 2017, eq. 2. Needs a Lipschitz discriminator: combine it with `GradientPenalty`.

    Args:
        drift: weight of D(x)^2 at real samples, which keeps the logits near 0; nothing else does (Karras et al. 2018,
            appendix A.1: 0.001).
    """

    zero_is_undecided = False

    def __init__(self, drift: float = 0.0) -> None:
        if drift < 0:
            raise ValueError(f"drift of Wasserstein must not be negative, not {drift}")
        self.drift = drift

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return fake_logits - real_logits + self.drift * real_logits.square()

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        return -fake_logits


class LeastSquares(AdversarialLoss):
    """LSGAN, Mao et al. 2017, eq. 9: targets 0 for fake, 1 for real, 1 for the generator."""

    zero_is_undecided = False

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return 0.5 * ((real_logits - 1).square() + fake_logits.square())

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        return 0.5 * (fake_logits - 1).square()


class RelativisticPairing(AdversarialLoss):
    """RpGAN, Jolicoeur-Martineau 2019, as in R3GAN (Huang et al. 2024, eq. 2): compares a fake with a real sample."""

    zero_is_undecided = False
    needs_real_in_generator_step = True

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return F.softplus(fake_logits - real_logits)

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        if real_logits is None:
            raise ValueError("RelativisticPairing needs the logits of real samples in the generator step")
        return F.softplus(real_logits - fake_logits)

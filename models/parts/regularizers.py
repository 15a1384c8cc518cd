"""Gradient penalties on a discriminator. Each returns one value a sample, shape (N,); the caller reduces.
At the end, what a generator's path lengths are, and what penalises weights: one value.

Gradient penalties differentiate twice, and run in float32: under bf16 autocast R1's own gradient is off by percents,
under fp16 it can underflow to nothing. `every` makes a penalty lazy (Karras et al. 2020b, section 3.1): computed each
`every`-th discriminator step and multiplied by `every`, so that its strength does not depend on the interval.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TypeAlias

import torch
from torch import Tensor

from models.parts.part import Part
from models.parts.schedules import Schedule, value_at

Critic: TypeAlias = Callable[[Tensor], Tensor]
"""Samples (N, *data_shape) to logits (N,), labels and augmentation already bound."""


class Regularizer(Part, ABC):
    """A penalty on the discriminator's gradient by its input."""

    def __init__(self, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"every of a regularizer counts discriminator steps and must be at least 1, not {every}")
        self.every = every

    def due(self, step: int) -> bool:
        """Whether discriminator step `step` (counted from 0) computes this penalty."""
        return step % self.every == 0

    @abstractmethod
    def penalty(self, critic: Critic, real: Tensor, fake: Tensor, samples_seen: int) -> Tensor:
        """The penalty of each sample, (N,), before the multiplication by `every`."""


class ZeroCentred(Regularizer, ABC):
    """gamma/2 * |grad D(x)|^2 (Mescheder et al. 2018): the gradient shall vanish where a subclass says."""

    def __init__(self, gamma: float | Schedule, every: int = 1) -> None:
        super().__init__(every)
        self.gamma = gamma

    def at(self, critic: Critic, x: Tensor, samples_seen: int) -> Tensor:
        """The penalty of each sample of `x`, (N,)."""
        return 0.5 * value_at(self.gamma, samples_seen) * squared_gradient_norm(critic, x)


class R1(ZeroCentred):
    """At real samples (eq. 9)."""

    def penalty(self, critic: Critic, real: Tensor, fake: Tensor, samples_seen: int) -> Tensor:
        return self.at(critic, real, samples_seen)


class R2(ZeroCentred):
    """At generated samples (eq. 10)."""

    def penalty(self, critic: Critic, real: Tensor, fake: Tensor, samples_seen: int) -> Tensor:
        return self.at(critic, fake, samples_seen)


class GradientPenalty(Regularizer):
    """weight * (|grad D(x)| - target)^2 between a real and a fake each (WGAN-GP, Gulrajani et al. 2017, eq. 3)."""

    def __init__(self, weight: float | Schedule = 10.0, target: float = 1.0, every: int = 1) -> None:
        super().__init__(every)
        self.weight, self.target = weight, target

    def penalty(self, critic: Critic, real: Tensor, fake: Tensor, samples_seen: int) -> Tensor:
        mix = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device, dtype=real.dtype)
        norm = squared_gradient_norm(critic, torch.lerp(real, fake, mix)).clamp_min(1e-12).sqrt()
        return value_at(self.weight, samples_seen) * (norm - self.target).square()


def squared_gradient_norm(critic: Critic, x: Tensor) -> Tensor:
    """|d sum(D(x)) / dx|^2 of each sample, (N,), itself differentiable by the discriminator's parameters."""
    x = x.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return gradient.square().flatten(1).sum(1)


def path_lengths(pictures: Tensor, ws: Tensor, directions: Tensor) -> Tensor:
    """|J^T y| of each sample, (N,), itself differentiable (Karras et al. 2020, eq. 4 and appendix B).

    J is the derivative of a picture by its intermediate latents; where layers take each their own, the mean over them
    is that of the squared lengths.

    Args:
        pictures: (N, C, H, W), computed from `ws`.
        ws: (N, layers, size).
        directions: y, shaped as pictures: N(0, 1) / sqrt(H W), so that lengths do not depend on the resolution.
    """
    (gradient,) = torch.autograd.grad((pictures * directions).sum(), ws, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()


def non_orthogonality(weights: Iterable[Tensor]) -> Tensor:
    """sum over W of |W W^T * (1 - I)|^2, the squared inner products of different filters (Brock et al. 2019, eq. 3).

    Filters, the rows of W flattened to (out, ...), are to be orthogonal; their lengths are free.
    """
    return torch.stack([_off_diagonal(weight.flatten(1)) for weight in weights]).sum()


def _off_diagonal(rows: Tensor) -> Tensor:
    """|W W^T * (1 - I)|^2 of a matrix."""
    if len(rows) <= rows.shape[1]:
        products = rows @ rows.T
        return (products - products.diagonal().diag()).square().sum()
    # |W W^T| = |W^T W|, the smaller matrix: a latent's first layer has tens of thousands of rows. Such rows cannot be
    # orthogonal, so that the difference of the two terms loses no digits.
    return (rows.T @ rows).square().sum() - rows.square().sum(1).square().sum()

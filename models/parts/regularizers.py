"""Terms added to the gradients of a loss: `Penalty`, and the regularizers that a config can name.

A regularizer penalises the discriminator's gradient with respect to its input, and so differentiates twice. In 16 bits
R1's own gradient is off by percents, and can underflow to zero, so they compute in float32 unless told otherwise. The
file ends with a generator's path lengths, and a penalty on weights.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from models.parts.schedules import Schedule, value_at
from settings.configurable import Configurable

Critic: TypeAlias = Callable[[Tensor], Tensor]
"""Samples (N, *data_shape) to logits (N,), with labels and augmentation already bound."""

PenaltyPrecision: TypeAlias = Literal["float32", "as_loss"]


@dataclass(frozen=True)
class MicroBatch:
    """A part of a step's batch, from which a penalty may be computed."""

    real: Tensor
    fake: Tensor
    """Without the generator's graph."""
    labels: Tensor
    critic: Critic
    samples_seen: int


@dataclass(frozen=True)
class Penalty:
    """A term that a step of one network adds to the gradients of its loss: the only way to add one.

    A model's list of penalties determines which steps compute which, what a step costs, and Adam's correction for lazy
    ones (Karras et al. 2020b, section 3.1, and 2020, appendix B).
    """

    name: str
    """The name under which it is logged."""
    network: str
    """"generator" or "discriminator"."""
    every: int
    """Computed in each `every`-th step of the network, and multiplied by `every`: its strength stays the same."""
    value: Callable[[MicroBatch], Tensor] | None
    """One value per sample, or one for all, before that multiplication. None: only the interval counts."""
    own_step: bool = False
    """It gets a step of its own after that of the loss, and k / (k + 1) corrects Adam for that, with k = `every`."""
    of: Literal["own pass", "pass of the loss", "weights"] = "own pass"
    """What it is computed from: a pass of its own; the very samples of the loss, so that it can share the loss's pass;
    or weights alone, so that it is computed once per step, not once per micro-batch."""
    precision: PenaltyPrecision = "float32"

    def due(self, step: int) -> bool:
        """Whether step `step` of the network, counted from 0, computes it."""
        return self.value is not None and step % self.every == 0


class Regularizer(Configurable, ABC):
    """A penalty on the discriminator's gradient with respect to its input, as a config names it."""

    at_samples: ClassVar[bool] = False
    """Whether the gradient is taken at the very samples of the loss."""
    precision: PenaltyPrecision = "float32"

    def __init__(self, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"every of a regularizer counts discriminator steps and must be at least 1, not {every}")
        self.every = every

    @abstractmethod
    def penalty(self, critic: Critic, real: Tensor, fake: Tensor, samples_seen: int) -> Tensor:
        """The penalty of each sample, (N,), before the multiplication by `every`."""

    def as_penalty(self) -> Penalty:
        def value(of: MicroBatch) -> Tensor:
            return self.penalty(of.critic, of.real, of.fake, of.samples_seen)

        return Penalty(
            f"{type(self).__name__.lower()}_penalty", "discriminator", self.every, value,
            of="pass of the loss" if self.at_samples else "own pass", precision=self.precision,
        )  # fmt: skip


class ZeroCentred(Regularizer, ABC):
    """gamma/2 * |grad D(x)|^2 (Mescheder et al. 2018): pulls the gradient to zero at the samples of a subclass.

    Args:
        gamma: the weight.
        every: discriminator steps.
        precision: "as_loss" computes it as the loss is computed, in 16 bits under mixed precision. If both have the
            same precision, they share one pass of the discriminator, unless the penalty has its own step.
    """

    at_samples: ClassVar[bool] = True

    def __init__(self, gamma: float | Schedule, every: int = 1, precision: PenaltyPrecision = "float32") -> None:
        super().__init__(every)
        if precision not in ("float32", "as_loss"):
            raise ValueError(f"precision of a regularizer must be float32 or as_loss, not {precision!r}")
        self.gamma, self.precision = gamma, precision

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
    """weight * (|grad D(x)| - target)^2 between a real and a fake (WGAN-GP, Gulrajani et al. 2017, eq. 3)."""

    def __init__(self, weight: float | Schedule = 10.0, target: float = 1.0, every: int = 1) -> None:
        super().__init__(every)
        self.weight, self.target = weight, target

    def penalty(self, critic: Critic, real: Tensor, fake: Tensor, samples_seen: int) -> Tensor:
        mix = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device, dtype=real.dtype)
        norm = squared_gradient_norm(critic, torch.lerp(real, fake, mix)).clamp_min(1e-12).sqrt()
        return value_at(self.weight, samples_seen) * (norm - self.target).square()


def squared_gradient_norm(critic: Critic, x: Tensor) -> Tensor:
    """|d sum(D(x)) / dx|^2 of each sample, (N,), itself differentiable by the discriminator's parameters.

    If `x` requires a gradient it is used as it is, since the critic may already know its logits.
    """
    if not x.requires_grad:
        x = x.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return gradient.square().flatten(1).sum(1)


def path_lengths(pictures: Tensor, ws: Tensor, directions: Tensor) -> Tensor:
    """|J^T y| of each sample, (N,), itself differentiable (Karras et al. 2020, eq. 4 and appendix B).

    J is the derivative of pictures (N, C, H, W) by the intermediate latents `ws` (N, layers, size) that they were
    computed from; the squared lengths are averaged over layers. The directions y, shaped as pictures, are
    N(0, 1) / sqrt(H W), so that lengths do not depend on the resolution.
    """
    (gradient,) = torch.autograd.grad((pictures * directions).sum(), ws, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()


def non_orthogonality(weights: Iterable[Tensor]) -> Tensor:
    """sum over W of |W W^T * (1 - I)|^2, the squared inner products of different filters (Brock et al. 2019, eq. 3).

    The filters are the rows of W flattened to (out, ...). They are pulled to be orthogonal; their lengths are free.
    """
    return torch.stack([_off_diagonal(weight.flatten(1)) for weight in weights]).sum()


def _off_diagonal(rows: Tensor) -> Tensor:
    if len(rows) <= rows.shape[1]:
        products = rows @ rows.T
        return (products - products.diagonal().diag()).square().sum()
    # |W W^T| = |W^T W|, the smaller matrix: a latent's first layer has tens of thousands of rows. So many rows cannot
    # be orthogonal, and the difference of the two terms loses no digits.
    return (rows.T @ rows).square().sum() - rows.square().sum(1).square().sum()

"""Projection: the latent of the picture nearest to a given one (Karras et al. 2020, arXiv:1912.04958, section 5)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

RAMP_UP, RAMP_DOWN = 0.05, 0.25
"""Shares of the steps over which the learning rate rises and falls (appendix D)."""
INITIAL_NOISE = 0.05
"""Noise added to the latent in the first step, as a share of the latents' spread."""
NOISE_RAMP = 0.75
"""Share of the steps after which nothing is added to the latent any more."""
SMALLEST_SIDE = 8
"""In pixels: the side below which noise is averaged no further."""


def learning_rate_factor(t: float) -> float:
    """The learning rate's factor at t in [0, 1): it rises linearly from 0 and falls by a cosine."""
    falling = min(1.0, (1 - t) / RAMP_DOWN)
    return (0.5 - 0.5 * math.cos(falling * math.pi)) * min(1.0, t / RAMP_UP)


def latent_noise(t: float, spread: float) -> float:
    """Standard deviation of the noise added to the latent at t in [0, 1): exploration at first, less and less of it.

    `spread` is the root mean squared distance of latents from their average.
    """
    return spread * INITIAL_NOISE * max(0.0, 1 - t / NOISE_RAMP) ** 2


def spread_of(points: Tensor) -> tuple[Tensor, float]:
    """The average of points (N, D), as (D,), and their root mean squared distance from it."""
    mean = points.double().mean(0)
    return mean.to(points), float((points.double() - mean).square().sum(1).mean().sqrt())


def noise_regularization(noises: Sequence[Tensor]) -> Tensor:
    """How much of a picture hides in noise: its autocorrelation at shifts of one pixel, at every scale, as a scalar.

    For each noise (N, 1, side, side), which should be standard normal, the squared means of n(x, y) n(x - 1, y) and
    n(x, y) n(x, y - 1), with wrapped edges, are summed over a pyramid of averages down to 8 px (section 5, L_i,j). An
    average of four pixels is doubled, so that white noise keeps its variance and gives about 0 at every scale.
    """
    total = noises[0].new_zeros(())
    for noise in noises:
        while True:
            total = total + (noise * noise.roll(1, 3)).mean() ** 2 + (noise * noise.roll(1, 2)).mean() ** 2
            if noise.shape[2] <= SMALLEST_SIDE:
                break
            noise = F.avg_pool2d(noise, 2) * 2
    return total


@torch.no_grad()
def renormalize(noises: Sequence[Tensor]) -> None:
    """Gives each noise mean 0 and variance 1, in place; otherwise small noise would minimise the regularization."""
    for noise in noises:
        noise -= noise.mean()
        noise *= noise.square().mean().clamp_min(1e-12).rsqrt()

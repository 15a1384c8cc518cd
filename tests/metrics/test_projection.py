"""Schedules and noise of projection, against the paper's formulas written out."""

import math

import pytest
import torch
from torch import Tensor

from features.efficientnet import EfficientNetFeatures
from metrics.path_length import EfficientNetDistance
from metrics.projection import latent_noise, learning_rate_factor, noise_regularization, renormalize, spread_of


def directly(noise: Tensor) -> float:
    """The regularisation of one noise (side, side), pixel by pixel."""
    total, side = 0.0, len(noise)
    while True:
        across = sum(float(noise[y, x] * noise[y, x - 1]) for y in range(side) for x in range(side)) / side**2
        down = sum(float(noise[y, x] * noise[y - 1, x]) for y in range(side) for x in range(side)) / side**2
        total += across**2 + down**2
        if side <= 8:
            return total
        side //= 2
        quarters = [noise[i::2, j::2] for i in (0, 1) for j in (0, 1)]
        noise = (quarters[0] + quarters[1] + quarters[2] + quarters[3]) / 2


def test_the_regularization_is_the_papers() -> None:
    generator = torch.Generator().manual_seed(0)
    noises = [torch.randn(1, 1, side, side, generator=generator, dtype=torch.float64) for side in (4, 8, 32)]
    expected = sum(directly(noise[0, 0]) for noise in noises)
    assert float(noise_regularization(noises)) == pytest.approx(expected, rel=1e-12)


def test_white_noise_costs_nothing_and_smooth_noise_much() -> None:
    white = torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(0))
    place = torch.arange(256) * 2 * math.pi / 64
    smooth = (2**0.5 * torch.sin(place)).expand(256, 256)[None, None].contiguous()
    assert smooth.square().mean() == pytest.approx(1, rel=1e-5)
    # Six scales, two shifts; a mean of n products has variance 1 / n, of which 8 px has the fewest, 64.
    assert float(noise_regularization([white])) < 12 * 3**2 / 64 / 2
    assert float(noise_regularization([smooth])) > 2


def test_noise_is_renormalized_in_place() -> None:
    noise = (3 + 5 * torch.randn(1, 1, 8, 8)).requires_grad_(True)
    renormalize([noise])
    noise = noise.detach()
    assert float(noise.mean()) == pytest.approx(0, abs=1e-6)
    assert float(noise.square().mean()) == pytest.approx(1, rel=1e-5)


def test_the_rate_rises_stays_and_falls() -> None:
    assert learning_rate_factor(0) == 0
    assert learning_rate_factor(0.025) == pytest.approx(0.5)
    assert learning_rate_factor(0.05) == learning_rate_factor(0.75) == pytest.approx(1)
    assert learning_rate_factor(0.875) == pytest.approx(0.5)
    assert learning_rate_factor(1) == 0


def test_the_latents_noise_falls_to_nothing() -> None:
    assert latent_noise(0, 2.0) == pytest.approx(0.1)
    assert latent_noise(0.375, 2.0) == pytest.approx(0.025)
    assert latent_noise(0.75, 2.0) == latent_noise(1, 2.0) == 0


def test_the_spread_is_the_distance_from_the_average() -> None:
    mean, spread = spread_of(torch.tensor([[1.0, 0.0], [1.0, 4.0]]))
    assert mean.tolist() == [1, 2]
    assert spread == pytest.approx(2)


def test_the_feature_distance_can_be_descended() -> None:
    distance = EfficientNetDistance(EfficientNetFeatures(32))
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(1, 1, 16, 16, generator=generator) * 1.6 - 0.8 for _ in range(2))
    x = a.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(distance(x, b).sum(), x)
    step = 1e-3 * gradient / gradient.norm()
    slope = float((distance(a + step, b) - distance(a - step, b)) / 2e-3)
    assert slope == pytest.approx(float(gradient.norm()), rel=0.02)
    with torch.no_grad():
        assert not distance(x, b).requires_grad

"""Perceptual path length against a closed form, and its parts against plain ones."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from features.efficientnet import EfficientNetFeatures
from metrics.interpolation import lerp, slerp
from metrics.path_length import EfficientNetDistance, compared, step_ends, trimmed_mean


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_of_a_linear_generator_and_a_quadratic_distance_it_is_the_squared_speed() -> None:
    """Pictures A w, distance |x - y|^2: the step's share is |A (b - a)|^2 whatever the step and the place."""
    matrix, a, b = normal(12, 5), normal(40, 5, seed=1), normal(40, 5, seed=2)
    for epsilon in (1e-4, 0.1):
        ends = step_ends(a, b, torch.rand(40, dtype=torch.float64), epsilon, lerp)
        first, second = (end @ matrix.T for end in ends)
        lengths = (first - second).square().sum(1) / epsilon**2
        torch.testing.assert_close(lengths, ((b - a) @ matrix.T).square().sum(1), rtol=1e-6, atol=0)


def test_on_the_sphere_it_is_the_squared_angle() -> None:
    a, b = (torch.nn.functional.normalize(normal(40, 16, seed=seed), dim=1) for seed in (1, 2))
    first, second = step_ends(a, b, torch.rand(40, dtype=torch.float64), 1e-4, slerp)
    angles = (a * b).sum(1).acos()
    torch.testing.assert_close((first - second).square().sum(1) / 1e-8, angles.square(), rtol=1e-6, atol=0)


def test_ends_of_a_step_in_float32_are_computed_in_float64() -> None:
    first, second = step_ends(torch.ones(1, 4), 2 * torch.ones(1, 4), torch.tensor([0.5]), 1e-9, lerp)
    assert first.dtype == torch.float64
    assert float((second - first)[0, 0]) == pytest.approx(1e-9, rel=1e-6)


def test_a_hundredth_at_either_end_is_left_out() -> None:
    values = normal(1000).square()
    mean, error, kept = trimmed_mean(values[torch.randperm(1000)])
    low, high = np.percentile(values.numpy(), 1, method="lower"), np.percentile(values.numpy(), 99, method="higher")
    expected = values[(values >= low) & (values <= high)]
    assert (mean, kept) == (pytest.approx(float(expected.mean()), rel=1e-12), len(expected))
    assert kept < 1000
    assert error == pytest.approx(float(expected.std()) / math.sqrt(kept))
    assert trimmed_mean(torch.tensor([1.0, 3.0])) == (2.0, pytest.approx(1.0), 2)
    with pytest.raises(ValueError, match="at least 2 samples, not 1"):
        trimmed_mean(torch.ones(1))
    with pytest.raises(ValueError, match="1 of 3 steps have no finite length"):
        trimmed_mean(torch.tensor([1.0, math.nan, 2.0]))


def test_large_pictures_are_reduced_and_faces_cut_out() -> None:
    pictures = normal(2, 3, 512, 512)
    assert compared(normal(1, 3, 64, 64), crop=False).shape == (1, 3, 64, 64)
    torch.testing.assert_close(compared(pictures, crop=False), torch.nn.functional.avg_pool2d(pictures, 2))
    face = compared(pictures, crop=True)
    torch.testing.assert_close(face, torch.nn.functional.avg_pool2d(pictures[:, :, 192:448, 128:384], 2))


def test_the_offline_distance_is_quadratic_and_tells_less_than_a_byte() -> None:
    distance = EfficientNetDistance(EfficientNetFeatures(32))
    a, step = 0.5 * normal(2, 1, 32, 32).clamp(-1, 1).float(), 2e-3 * normal(2, 1, 32, 32, seed=1).float()
    near, far = distance(a, a + step), distance(a, a + 2 * step)  # steps of a quarter of a byte
    assert (distance(a, a) == 0).all()
    torch.testing.assert_close(far / near, torch.full((2,), 4.0, dtype=torch.float64), rtol=0.1, atol=0)
    assert distance.protocol()["distance"] == "squared, of features"

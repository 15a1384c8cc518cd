"""Two moons and eight Gaussians: their densities are what the points follow."""

import pytest
import torch
from torch import Tensor

from datamodules.points import EightGaussians, Points, TwoMoons

SETS = [TwoMoons, EightGaussians]


def lattice(side: float, count: int) -> tuple[Tensor, float]:
    """The centres (count^2, 2) of the cells of a square, and the area of one."""
    ticks = (torch.arange(count, dtype=torch.float64) + 0.5) / count * 2 * side - side
    return torch.cartesian_prod(ticks, ticks), (2 * side / count) ** 2


@pytest.mark.parametrize("kind", SETS)
def test_the_density_adds_up_to_one(kind: type[Points]) -> None:
    places, area = lattice(1.6, 160)
    assert (kind(noise=0.08).log_density(places).exp().sum() * area).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("kind", SETS)
def test_points_follow_the_density(kind: type[Points]) -> None:
    """Their mean log-density is minus the entropy, and their share in each of 64 cells is the density's."""
    data = kind(train_size=40_000)
    x, y = data.examples("train", range(40_000))
    places, area = lattice(1.4, 160)
    log_density = data.log_density(places)
    entropy = -(log_density.exp() * log_density).sum() * area
    assert data.log_density(x).mean().item() == pytest.approx(-entropy.item(), abs=0.02)

    def shares(points: Tensor, weights: Tensor) -> Tensor:
        cells = ((points.double() + 1.4) / 0.35).floor().long().clamp(0, 7)
        return torch.zeros(64, dtype=torch.float64).index_add_(0, cells[:, 0] * 8 + cells[:, 1], weights)

    expected = shares(places, log_density.exp() * area)
    counted = shares(x, torch.full((40_000,), 1 / 40_000, dtype=torch.float64))
    torch.testing.assert_close(counted, expected, rtol=0, atol=0.008)
    assert (torch.bincount(y) / 40_000).tolist() == pytest.approx([1 / data.num_classes] * data.num_classes, abs=0.01)
    assert (x.abs() <= 1.2).double().mean() > 0.999


@pytest.mark.parametrize("kind", SETS)
def test_splits_differ_and_seeds_do_not(kind: type[Points]) -> None:
    one, other = kind(train_size=20, test_size=20, seed=1), kind(train_size=20, test_size=20, seed=2)
    assert torch.equal(one.examples("train", range(20))[0], other.examples("train", range(20))[0])
    assert not torch.equal(one.examples("train", range(20))[0], one.examples("test", range(20))[0])
    assert one.data_shape == (2,)
    assert len(one.class_names) == one.num_classes
    one.setup()
    other.setup()
    assert one.fingerprint == other.fingerprint
    broader = kind(train_size=20, test_size=20, noise=0.1)
    broader.setup()
    assert broader.fingerprint != one.fingerprint


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match="noise: must lie in"):
        TwoMoons(noise=0.0)
    with pytest.raises(ValueError, match="radius: must be above 0"):
        EightGaussians(radius=2.0)
    with pytest.raises(ValueError, match="not 0 to 20"):
        TwoMoons(train_size=20).examples("train", range(21))

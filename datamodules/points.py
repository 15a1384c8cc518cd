"""Points of the plane with a density that is known exactly, to check a model's likelihood against."""

import math
from abc import abstractmethod
from typing import ClassVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from datamodules.base import DataModule, Examples, Split, at_least
from datamodules.order import keyed_generator

QUADRATURE = 256  # points on each moon; their distance is small beside the least noise allowed


class Points(DataModule):
    """Points in the plane. Each split is drawn once, and is the same for every training seed.

    Nearly all lie in [-1, 1]^2. A subclass draws them, and knows their density.

    Args:
        train_size: Number of training points.
        test_size: Number of test points.
        noise: Standard deviation of the noise, along each axis, around the points or curves.
        batch_size: Points in a step, over all ranks.
        seed: Of the order.
        num_workers: Loading processes per rank. 0 is fastest: a batch is one gather from memory.
    """

    names: ClassVar[tuple[str, ...]]
    """The classes' names."""

    def __init__(
        self,
        train_size: int = 50_000,
        test_size: int = 5_000,
        noise: float = 0.05,
        batch_size: int = 512,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        at_least("train_size", train_size, 1)
        at_least("test_size", test_size, 1)
        if not 0.02 <= noise <= 1:
            raise ValueError(f"noise: must lie in 0.02 to 1, got {noise}")
        super().__init__((2,), len(self.names), self.names, batch_size, seed, num_workers)
        self.noise, self.test_size = noise, test_size
        self._sizes: dict[Split, int] = {"train": train_size, "test": test_size}
        self._drawn: dict[Split, Examples] = {}

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points float64 (count, 2), and the mode of each, int64 (count,)."""

    @abstractmethod
    def log_density(self, x: Tensor) -> Tensor:
        """The natural logarithm of the density at points (N, 2): float64 (N,)."""

    def identity(self) -> tuple[object, ...]:
        return (self._sizes, self.noise)

    def dataset(self, split: Split) -> Examples:
        """One split, float32 (n, 2) and int64 (n,) for n indices; drawn by the first call, then kept."""
        self.require(split)
        if split not in self._drawn:
            points, labels = self.draw(self._sizes[split], keyed_generator(type(self).__name__, split))
            self._drawn[split] = cast(Examples, TensorDataset(points.float(), labels))
        return self._drawn[split]


def _log_normal(x: Tensor, centres: Tensor, noise: float) -> Tensor:
    """The log-densities (N, M) of points (N, 2) under normal distributions around centres (M, 2)."""
    squared = (x[:, None] - centres[None]).square().sum(2)
    return -0.5 * squared / noise**2 - math.log(2 * math.pi * noise**2)


class EightGaussians(Points):
    """Eight isotropic Gaussians, evenly spaced on a circle, with equal weights; the label says which.

    Args:
        train_size: Number of training points.
        test_size: Number of test points.
        noise: Standard deviation of each.
        radius: Of the circle.
        batch_size: Points in a step, over all ranks.
        seed: Of the order.
        num_workers: Loading processes per rank. 0 is fastest: a batch is one gather from memory.
    """

    names = tuple(f"{45 * i} degrees" for i in range(8))

    def __init__(
        self,
        train_size: int = 50_000,
        test_size: int = 5_000,
        noise: float = 0.08,
        radius: float = 0.75,
        batch_size: int = 512,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        if not 0 < radius <= 1:
            raise ValueError(f"radius: must be above 0 and at most 1, got {radius}")
        super().__init__(train_size, test_size, noise, batch_size, seed, num_workers)
        self.radius = radius

    def identity(self) -> tuple[object, ...]:
        return (*super().identity(), self.radius)

    def centres(self) -> Tensor:
        """The Gaussians' means: float64 (8, 2)."""
        angles = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
        return self.radius * torch.stack([angles.cos(), angles.sin()], dim=1)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        labels = torch.randint(8, (count,), generator=generator)
        spread = torch.randn(count, 2, generator=generator, dtype=torch.float64)
        return self.centres()[labels] + self.noise * spread, labels

    def log_density(self, x: Tensor) -> Tensor:
        return _log_normal(x.double().cpu(), self.centres(), self.noise).logsumexp(1) - math.log(8)


class TwoMoons(Points):
    """Two interleaved half circles with noise, with equal weights; the label says which.

    They are those of scikit-learn's make_moons, centred at 0 and halved in size. The density is the mean of Gaussians
    along each half circle, an integral that Gauss-Legendre quadrature gives to ten digits.
    """

    names = ("upper", "lower")

    @staticmethod
    def places(angles: Tensor, labels: Tensor) -> Tensor:
        """Points (N, 2) on the half circles, by angle in [0, pi] and label."""
        upper = torch.stack([angles.cos() - 0.5, angles.sin() - 0.25], dim=1)
        return torch.where(labels[:, None] == 0, upper, -upper) / 2

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        labels = torch.randint(2, (count,), generator=generator)
        angles = torch.rand(count, generator=generator, dtype=torch.float64) * math.pi
        spread = torch.randn(count, 2, generator=generator, dtype=torch.float64)
        return self.places(angles, labels) + self.noise * spread, labels

    def log_density(self, x: Tensor) -> Tensor:
        nodes, weights = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(QUADRATURE))
        angles, log_share = (nodes + 1) * (math.pi / 2), (weights / 4).log()
        moons = [self.places(angles, torch.full((QUADRATURE,), moon)) for moon in (0, 1)]
        chunks = x.double().cpu().split(4096)
        shares = torch.cat([log_share, log_share])
        return torch.cat([(_log_normal(c, torch.cat(moons), self.noise) + shares).logsumexp(1) for c in chunks])

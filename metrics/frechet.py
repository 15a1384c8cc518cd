"""Gaussian statistics of features, and the Fréchet distance between two of them, in float64 on the CPU."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from media.files import write_whole
from metrics.finite import finite
from metrics.metric import Context, Metric, figure_name
from records.figures import Direction, Figure

if TYPE_CHECKING:
    from features.extractors import Extractor
    from metrics.real_statistics import RealStatistics
    from metrics.sample_statistics import SampleStatistics


class Frechet(Metric):
    """The Fréchet distance of Gaussians fitted to the features: FID on Inception's, FD-<extractor> on others'."""

    name = "frechet"
    needs = frozenset({"gaussian"})

    def directions(self, extractor: "Extractor") -> dict[str, Direction]:
        return {figure_name(extractor, "fd", "fid"): "lower"}

    def unavailable(self, context: Context) -> str | None:
        if context.fewest >= 2:
            return None
        return f"needs 2 pictures on each side, there are {context.real_count} and {context.fake.count}"

    def note(self, context: Context) -> str | None:
        if context.fewest > context.extractor.dimension:
            return None
        return (
            f"{context.fewest} pictures are not more than the {context.extractor.dimension} features: the distance is "
            "biased far upwards, and compares only with figures of the same counts"
        )

    def figures(self, real: "RealStatistics", fake: "SampleStatistics") -> dict[str, Figure]:
        ((name, better),) = self.directions(fake.extractor).items()
        return {name: Figure(frechet_distance(real.gaussian, fake.gaussian), better)}


@dataclass(eq=False)
class GaussianStatistics:
    """Count, mean and scatter of feature vectors, collected batch by batch; memory D² whatever the count.

    Merging is exact (Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
    variances", eq. 2.1), so any split into batches or ranks gives the same statistics up to rounding.
    """

    count: int
    """Number of feature vectors seen."""
    mean: Tensor
    """(D,) float64."""
    scatter: Tensor
    """(D, D) float64: the sum of outer products of the centred features, (count - 1) times the covariance."""

    @classmethod
    def empty(cls, dimension: int) -> Self:
        scatter = torch.zeros(dimension, dimension, dtype=torch.float64)
        return cls(0, scatter.new_zeros(dimension), scatter)

    @property
    def dimension(self) -> int:
        return len(self.mean)

    def update(self, features: Tensor) -> None:
        """Adds `features`, float (N, D) on any device; N may be 0.

        ValueError for another shape, or for features that are not finite; the statistics are then unchanged.
        """
        if features.ndim != 2 or features.shape[1] != self.dimension:
            raise ValueError(f"features: expected shape (N, {self.dimension}), got {tuple(features.shape)}")
        if len(features) == 0:
            return
        features = finite(features, "features")
        mean = features.mean(0)
        count, shift = self.count + len(features), mean - self.mean
        # `merge` as one product: the shift's outer product is that of one more row, and D² numbers are read only once.
        weight = (self.count * len(features) / count) ** 0.5
        rows = torch.cat([features - mean, weight * shift[None]])
        self.mean = self.mean + shift * (len(features) / count)
        self.scatter = torch.addmm(self.scatter, rows.T, rows)
        self.count = count

    def merge(self, other: "GaussianStatistics") -> None:
        """Adds everything that `other` has seen. ValueError if its dimension differs."""
        _check_same_dimension(self, other)
        count = self.count + other.count
        if count == 0:
            return
        shift = other.mean - self.mean
        # New tensors, not in place, because `state()` and the creator of `self` may hold the old ones.
        self.mean = self.mean + shift * (other.count / count)
        self.scatter = self.scatter + other.scatter + torch.outer(shift, shift) * (self.count * other.count / count)
        self.count = count

    def covariance(self) -> Tensor:
        """The unbiased covariance (divided by count - 1), float64 (D, D). ValueError for fewer than two features."""
        if self.count < 2:
            raise ValueError(f"statistics of {self.count} samples have no covariance; take at least 2")
        return self.scatter / (self.count - 1)

    def state(self) -> dict[str, Tensor]:
        """`count` (int64 scalar), `mean` and `scatter` as tensors, for a cache; `from_state` is the inverse."""
        return {"count": torch.tensor(self.count), "mean": self.mean, "scatter": self.scatter}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> Self:
        return cls(int(state["count"]), state["mean"].cpu(), state["scatter"].cpu())

    def save(self, path: Path, key: str = "") -> None:
        """Writes an npz of `mu`, `sigma` (the unbiased covariance), `count` and `key`, whole or not at all.

        `key` says what the statistics describe; `metrics.statistics` reads it back. ValueError for fewer than two
        features; OSError like `write_whole`.
        """
        mean, covariance = self.mean.numpy(), self.covariance().numpy()
        count = np.array(self.count)
        write_whole(path, lambda file: np.savez(file, mu=mean, sigma=covariance, count=count, key=np.array(key)))


def frechet_distance(a: GaussianStatistics, b: GaussianStatistics) -> float:
    """|μa - μb|² + Tr(Σa + Σb - 2 (Σa Σb)^½), at least 0 (Dowson and Landau 1982; Heusel et al. 2017, eq. 6).

    In squared units of the features. It can be computed with fewer samples than dimensions, but it is biased upwards by
    an amount that depends on the counts: compare only figures of equal counts.
    ValueError for fewer than two samples, or dimensions that differ.
    """
    _check_same_dimension(a, b)
    covariance_a, covariance_b = a.covariance(), b.covariance()
    apart = float((a.mean - b.mean).square().sum() + covariance_a.trace() + covariance_b.trace())
    # A feature that varies in only one set adds nothing to the trace of the root, and a collapsed model leaves most
    # features constant. The remaining matrix is smaller, and mostly of full rank.
    varying = _varies(a) & _varies(b)
    if not varying.any():
        return max(apart, 0.0)
    if not varying.all():
        covariance_a, covariance_b = covariance_a[varying][:, varying], covariance_b[varying][:, varying]
    root_trace, error = _quick_root_trace(covariance_a, covariance_b, a.count - 1, b.count - 1)
    if 2 * error > _ACCURACY * (apart - 2 * root_trace):
        root_trace = _careful_root_trace(covariance_a, covariance_b)
    return max(apart - 2 * root_trace, 0.0)


_ACCURACY = 1e-6
"""Relative error of the distance up to which the quick way is trusted. Its estimate assumes ε for every eigenvalue, but
the small ones of a graded spectrum are far more accurate: the true errors were 1/300 of it and less."""
_BLOCK = 256
"""Columns of a triangular product computed at once: smaller blocks skip more zeros, larger ones multiply faster."""
_STILL = 1e-13
"""Deviation, in units of the mean, up to which a feature is constant: rounding in float64 leaves 1e-15 or so, and one
float32 feature that differs by one unit in the last place, in one of a million samples, gives 6e-11."""


def _varies(statistics: GaussianStatistics) -> Tensor:
    """(D,) bool: which features vary by more than rounding."""
    return statistics.covariance().diagonal() > (_STILL * statistics.mean).square()


def _quick_root_trace(a: Tensor, b: Tensor, rank_a: int, rank_b: int) -> tuple[float, float]:
    """Tr (Σa Σb)^½ and an estimate of its error, from eigenvalues alone.

    With Σa = F Fᵀ, the eigenvalues of Σa Σb are those of Fᵀ Σb F, which is symmetric: half the work of a singular value
    decomposition and an eighth of that of an unsymmetric matrix. The price is that an eigenvalue λ has an error ε of
    the size of the largest one's rounding, and its root ε / 2√λ. Eigenvalues that must be zero, since a covariance of n
    samples has at most rank n - 1, are left out, because each would add √ε. If others drown in rounding the error is
    infinite; else it is the root of the sum of squares, as for independent errors.
    """
    product = None
    for one, other, rank in ((a, b, rank_a), (b, a, rank_b)):
        if product is None and rank >= len(one):
            product = _sandwiched(one, other)
    if product is None:
        # The smaller rank makes the smaller problem.
        one, other = (a, b) if rank_a < rank_b else (b, a)
        factor = _factor(one)
        product = factor.T @ other @ factor
    eigenvalues = torch.linalg.eigvalsh(product, UPLO="L")[-min(rank_a, rank_b, len(product)) :]
    # The rounding of the factors, not of the product, which is small if they share few directions.
    rounding = torch.finfo(torch.float64).eps * a.norm() * b.norm()
    if eigenvalues[0] <= rounding:
        return float(eigenvalues.clamp(min=0).sqrt().sum()), math.inf
    roots = eigenvalues.sqrt()
    return float(roots.sum()), float((rounding / (2 * roots)).norm())


def _sandwiched(a: Tensor, b: Tensor) -> Tensor | None:
    """The lower triangle of Lᵀ b L, for the Cholesky factor L of a; None if a has none."""
    factor, failed = torch.linalg.cholesky_ex(a)
    if failed:
        return None
    product = torch.zeros_like(a)
    # It skips the part above the diagonal and the factor's zeros: a third of the plain products' work.
    for start in range(0, len(a), _BLOCK):
        columns = slice(start, start + _BLOCK)
        product[start:, columns] = factor[start:, start:].T @ (b[start:, start:] @ factor[start:, columns])
    return product


def _careful_root_trace(a: Tensor, b: Tensor) -> float:
    """Tr (Σa Σb)^½, each root accurate to the rounding of the largest; several times slower.

    With Σ = F Fᵀ, the eigenvalues of Σa Σb are the squared singular values of Faᵀ Fb, so the trace is their sum.
    """
    return float(torch.linalg.svdvals(_factor(a).T @ _factor(b)).sum())


def _factor(covariance: Tensor) -> Tensor:
    """F of shape (D, rank) with F Fᵀ = covariance, without directions that are only rounding error."""
    # LAPACK's threaded eigh can fail to converge on matrices far from full rank; the slower SVD then gives the same.
    try:
        eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
    except RuntimeError:  # torch.linalg.LinAlgError, which torch does not export to type checkers
        eigenvectors, eigenvalues, _ = torch.linalg.svd(covariance)
    kept = eigenvalues > float(eigenvalues.max()) * len(covariance) * torch.finfo(torch.float64).eps
    return eigenvectors[:, kept] * eigenvalues[kept].sqrt()


def _check_same_dimension(a: GaussianStatistics, b: GaussianStatistics) -> None:
    if a.dimension != b.dimension:
        raise ValueError(f"statistics of dimensions {a.dimension} and {b.dimension}: not of the same extractor")

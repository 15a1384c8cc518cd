"""Gaussian statistics of features, and the Fréchet distance between two of them, in float64 on the CPU."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import torch
from torch import Tensor

from metrics.files import write_whole


@dataclass(eq=False)
class GaussianStatistics:
    """Count, mean and scatter of feature vectors, gathered batch by batch; the memory is D² whatever the count.

    Merging is exact (Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
    variances", eq. 2.1), so any split into batches or ranks gives the same statistics to rounding.
    """

    count: int
    """Number of feature vectors seen."""
    mean: Tensor
    """(D,) float64."""
    scatter: Tensor
    """(D, D) float64: the sum of outer products of the centred features, (count - 1) times the covariance."""

    @classmethod
    def empty(cls, dimension: int) -> Self:
        """Statistics of no features of length `dimension`."""
        scatter = torch.zeros(dimension, dimension, dtype=torch.float64)
        return cls(0, scatter.new_zeros(dimension), scatter)

    @property
    def dimension(self) -> int:
        """D, the length of a feature vector."""
        return len(self.mean)

    def update(self, features: Tensor) -> None:
        """Take in `features`, float (N, D) on any device; N may be 0.

        ValueError for another shape, or for features that aren't finite; the statistics are then as before.
        """
        if features.ndim != 2 or features.shape[1] != self.dimension:
            raise ValueError(f"features: expected shape (N, {self.dimension}), got {tuple(features.shape)}")
        if len(features) == 0:
            return
        # First to the CPU: some accelerators have no float64.
        features = features.detach().cpu().double()
        broken = int((~features.isfinite()).any(1).sum())
        if broken:
            raise ValueError(f"features: {broken} of {len(features)} vectors hold NaN or infinity; look at the samples")
        mean = features.mean(0)
        centred = features - mean
        self.merge(GaussianStatistics(len(features), mean, centred.T @ centred))

    def merge(self, other: "GaussianStatistics") -> None:
        """Take in all that `other` has seen. ValueError if its dimension differs."""
        _check_same_dimension(self, other)
        count = self.count + other.count
        if count == 0:
            return
        shift = other.mean - self.mean
        # New tensors, not in place: `state()` and whoever made `self` may hold the old ones.
        self.mean = self.mean + shift * (other.count / count)
        self.scatter = self.scatter + other.scatter + torch.outer(shift, shift) * (self.count * other.count / count)
        self.count = count

    def covariance(self) -> Tensor:
        """The unbiased covariance (divided by count - 1), float64 (D, D). ValueError for fewer than two features."""
        if self.count < 2:
            raise ValueError(f"statistics of {self.count} samples have no covariance; take at least 2")
        return self.scatter / (self.count - 1)

    def state(self) -> dict[str, Tensor]:
        """`count` (int64 scalar), `mean` and `scatter` as tensors, for gathering over ranks; `from_state` undoes it."""
        return {"count": torch.tensor(self.count), "mean": self.mean, "scatter": self.scatter}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> Self:
        """The statistics that `state()` described, on the CPU."""
        return cls(int(state["count"]), state["mean"].cpu(), state["scatter"].cpu())

    def save(self, path: Path, key: str = "") -> None:
        """Write an npz of `mu`, `sigma` (the unbiased covariance), `count` and `key`, whole or not at all.

        `key` says what these are statistics of. ValueError for fewer than two features; OSError as `write_whole`.
        """
        mean, covariance = self.mean.numpy(), self.covariance().numpy()

        def write(file: BinaryIO) -> None:
            np.savez(file, mu=mean, sigma=covariance, count=np.array(self.count), key=np.array(key))

        write_whole(path, write)

    @classmethod
    def load(cls, path: Path, key: str | None = None) -> Self:
        """Read what `save` wrote; with `key`, only if it was saved under the same one.

        ValueError, naming the file, if it is damaged, lacks an array, or bears another key; FileNotFoundError.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                mean = np.asarray(arrays["mu"], dtype=np.float64)
                covariance = np.asarray(arrays["sigma"], dtype=np.float64)
                count, found = int(arrays["count"]), str(arrays["key"])
        except FileNotFoundError:
            raise
        except KeyError as error:
            raise ValueError(f"{path}: no array {error} in it; write it with GaussianStatistics.save") from None
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: not an npz of statistics ({error}); delete it and compute anew") from None
        if key is not None and found != key:
            raise ValueError(f"{path}: holds statistics of {found!r}, not of {key!r}; delete it and compute anew")
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)) or count < 2:
            raise ValueError(
                f"{path}: mu of shape {mean.shape}, sigma of {covariance.shape} and count {count} don't belong together"
            )
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise ValueError(f"{path}: holds NaN or infinity; delete it and compute anew")
        return cls(count, torch.from_numpy(mean), torch.from_numpy(covariance) * (count - 1))


def frechet_distance(a: GaussianStatistics, b: GaussianStatistics) -> float:
    """|μa - μb|² + Tr(Σa + Σb - 2 (Σa Σb)^½), at least 0 (Dowson and Landau 1982; Heusel et al. 2017, eq. 6).

    In squared units of the features. Fewer samples than dimensions are fine for the computation, but the figure is
    biased upwards by an amount that depends on the counts: compare only figures of equal counts.
    ValueError for fewer than two samples, or dimensions that differ.
    """
    _check_same_dimension(a, b)
    covariance_a, covariance_b = a.covariance(), b.covariance()
    # With Σ = F Fᵀ, the eigenvalues of Σa Σb are the squared singular values of Faᵀ Fb, hence Tr (Σa Σb)^½ their sum.
    # Roots of the eigenvalues of Σa^½ Σb Σa^½ would be the same number, but each eigenvalue that ought to be zero
    # (rank-deficient Σ) would come in as √(rounding error), 1e-8 instead of 1e-16 of the largest.
    root_trace = torch.linalg.svdvals(_factor(covariance_a).T @ _factor(covariance_b)).sum()
    distance = (a.mean - b.mean).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * root_trace
    return max(float(distance), 0.0)


def _factor(covariance: Tensor) -> Tensor:
    """F of shape (D, rank) with F Fᵀ = covariance, without the directions that are nothing but rounding error."""
    # Features that never vary (most of them, in a collapsed model) are left out: with hundreds of zero rows LAPACK's
    # threaded eigh can fail to converge. Where it does all the same, the slower SVD gives the same decomposition.
    varying = covariance.diagonal() > 0
    block = covariance[varying][:, varying]
    if len(block) == 0:
        return covariance.new_zeros(len(covariance), 0)
    try:
        eigenvalues, eigenvectors = torch.linalg.eigh(block)
    except RuntimeError:  # torch.linalg.LinAlgError, which torch does not export to type checkers
        eigenvectors, eigenvalues, _ = torch.linalg.svd(block)
    kept = eigenvalues > float(eigenvalues.max()) * len(covariance) * torch.finfo(torch.float64).eps
    factor = covariance.new_zeros(len(covariance), int(kept.sum()))
    factor[varying] = eigenvectors[:, kept] * eigenvalues[kept].sqrt()
    return factor


def _check_same_dimension(a: GaussianStatistics, b: GaussianStatistics) -> None:
    if a.dimension != b.dimension:
        raise ValueError(f"statistics of dimensions {a.dimension} and {b.dimension}: not of the same extractor")

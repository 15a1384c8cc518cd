"""Linear discriminant analysis: a classifier in closed form on streamed features, in float64 on the CPU.

Fitted to real features and applied to generated ones, it shows class by class whether a model draws what it should.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from metrics.finite import finite
from metrics.metric import Context, Metric
from records.figures import Direction, Figure

if TYPE_CHECKING:
    from features.extractors import Extractor
    from metrics.real_statistics import RealStatistics
    from metrics.sample_statistics import SampleStatistics


class ClassAccuracy(Metric):
    """How often a classifier of real features predicts the class that a sample was drawn for."""

    name = "class_accuracy"
    needs = frozenset({"rows", "labels"})

    def directions(self, extractor: "Extractor") -> dict[str, Direction]:
        return {"class_accuracy": "higher"}

    def unavailable(self, context: Context) -> str | None:
        if context.real is None or not context.real.num_classes:
            return "the real pictures have no labels"
        if context.fake.num_classes != context.real.num_classes:
            return f"samples of {context.fake.num_classes or 'no'} classes, real pictures of {context.real.num_classes}"
        return None

    def figures(self, real: "RealStatistics", fake: "SampleStatistics") -> dict[str, Figure]:
        ((name, better),) = self.directions(fake.extractor).items()
        classifier, accuracy = real.classifier
        starts = range(0, fake.total, 4096)
        predicted = [classifier.predict(torch.from_numpy(np.array(fake.rows[i : i + 4096]))) for i in starts]
        by_class = class_accuracy(torch.cat(predicted), torch.cat(fake.labels), real.pictures.num_classes)
        settings = {
            "classifier": "linear discriminant on the extractor's features",
            "classifier_accuracy": round(accuracy, 6),
            "by_class": [round(value, 6) for value in by_class.tolist()],
        }
        return {name: Figure(float(by_class.nanmean()), better, None, settings)}


@dataclass(eq=False)
class DiscriminantStatistics:
    """Each class's count and mean, and one scatter within classes, collected batch by batch; memory D (D + classes).

    Merging is exact (Chan, Golub and LeVeque 1979, eq. 2.1, class by class), so any split into batches or ranks gives
    the same statistics up to rounding.
    """

    counts: Tensor
    """(classes,) int64: feature vectors seen."""
    means: Tensor
    """(classes, D) float64; zeros for a class not seen."""
    scatter: Tensor
    """(D, D) float64: the sum of outer products of the features about their own class's mean."""

    @classmethod
    def empty(cls, classes: int, dimension: int) -> Self:
        """Statistics of no features of length `dimension`. ValueError unless classes ≥ 1."""
        if classes < 1:
            raise ValueError(f"classes must be at least 1, not {classes}")
        means = torch.zeros(classes, dimension, dtype=torch.float64)
        return cls(torch.zeros(classes, dtype=torch.int64), means, means.new_zeros(dimension, dimension))

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Adds `features`, float (N, D), of classes `labels`, int64 (N,), on any device; N may be 0.

        ValueError for other shapes, labels outside range(classes), or features that are not finite; the statistics are
        then unchanged.
        """
        classes, dimension = self.means.shape
        if features.ndim != 2 or features.shape[1] != dimension or labels.shape != features.shape[:1]:
            raise ValueError(
                f"features and labels: expected shapes (N, {dimension}) and (N,), "
                f"got {tuple(features.shape)} and {tuple(labels.shape)}"
            )
        if len(features) == 0:
            return
        labels = labels.detach().cpu()
        _check_labels(labels, classes, "labels")
        features = finite(features, "features")
        counts = labels.bincount(minlength=classes)
        sums = torch.zeros_like(self.means).index_add_(0, labels, features)
        means = sums / counts.clamp(min=1)[:, None]
        centred = features - means[labels]
        self.merge(DiscriminantStatistics(counts, means, centred.T @ centred))

    def merge(self, other: "DiscriminantStatistics") -> None:
        """Adds everything that `other` has seen. ValueError if its classes or dimension differ."""
        if self.means.shape != other.means.shape:
            mine, others = tuple(self.means.shape), tuple(other.means.shape)
            raise ValueError(f"statistics of (classes, dimension) {mine} and {others} do not belong together")
        counts = self.counts + other.counts
        share = other.counts / counts.clamp(min=1).double()
        shift = other.means - self.means
        weighted = shift * (self.counts * share)[:, None]
        # New tensors, not in place, because the creator of `self` may hold the old ones.
        self.means = self.means + shift * share[:, None]
        self.scatter = self.scatter + other.scatter + shift.T @ weighted
        self.counts = counts


@dataclass(frozen=True, eq=False)
class LinearDiscriminant:
    """The class whose mean is nearest, by the Mahalanobis distance of the covariance that all classes share."""

    centre: Tensor
    """(D,) float64: subtracted from features first, so that their offset costs no digits."""
    weight: Tensor
    """(classes, D) float64."""
    bias: Tensor
    """(classes,) float64; -∞ for a class that was never seen, which is then never predicted."""

    @classmethod
    def fitted(cls, statistics: DiscriminantStatistics, shrinkage: float = 0.1) -> Self:
        """Fisher's discriminant with covariance (1 - s) Σ + s Tr(Σ) / D · I (Hastie et al. 2009, §4.3; Friedman 1989).

        All classes seen count as equally likely, so that a rare class's accuracy does not suffer from its rarity. The
        shrinkage s, above 0 and at most 1, makes Σ invertible even with fewer samples than dimensions.
        ValueError for another s, and for empty statistics.
        """
        if not 0 < shrinkage <= 1:
            raise ValueError(f"shrinkage must be above 0 and at most 1, not {shrinkage}")
        total = int(statistics.counts.sum())
        if total == 0:
            raise ValueError("no features to fit a classifier to; update the statistics with some")
        seen = statistics.counts > 0
        covariance = statistics.scatter / total
        level = float(covariance.diagonal().mean())
        # If no class varies, any multiple of the identity gives the same result: the nearest mean.
        identity = torch.eye(len(covariance), dtype=torch.float64) * (level or 1.0)
        centre = statistics.means[seen].mean(0)
        means = statistics.means - centre
        factor = torch.linalg.cholesky((1 - shrinkage) * covariance + shrinkage * identity)
        weight = torch.cholesky_solve(means.T, factor).T
        bias = -0.5 * (weight * means).sum(1)
        return cls(centre, weight, bias.masked_fill(~seen, -math.inf))

    def predict(self, features: Tensor) -> Tensor:
        """The likeliest class of each of `features`, float (N, D) on any device: int64 (N,) on the CPU.

        ValueError for another shape, or features that are not finite.
        """
        if features.ndim != 2 or features.shape[1] != len(self.centre):
            raise ValueError(f"features: expected shape (N, {len(self.centre)}), got {tuple(features.shape)}")
        return ((finite(features, "features") - self.centre) @ self.weight.T + self.bias).argmax(1)


def class_accuracy(predicted: Tensor, wanted: Tensor, num_classes: int) -> Tensor:
    """Share of each wanted class's samples predicted as it: float64 (num_classes,), NaN for a class without samples.

    `predicted` and `wanted` are int64 (N,). ValueError if their shapes differ, or for wanted classes outside
    range(num_classes).
    """
    if predicted.ndim != 1 or predicted.shape != wanted.shape:
        raise ValueError(
            f"predicted and wanted: shapes {tuple(predicted.shape)} and {tuple(wanted.shape)}, not one (N,)"
        )
    predicted, wanted = predicted.detach().cpu(), wanted.detach().cpu()
    _check_labels(wanted, num_classes, "wanted")
    totals = wanted.bincount(minlength=num_classes)
    right = wanted[predicted == wanted].bincount(minlength=num_classes)
    return right.double() / totals  # 0 / 0 is NaN


def _check_labels(labels: Tensor, classes: int, name: str) -> None:
    outside = labels[(labels < 0) | (labels >= classes)]
    if len(outside):
        raise ValueError(f"{name}: {int(outside[0])} is not a class from 0 to {classes - 1}")

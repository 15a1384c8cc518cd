"""The engine behind every quality figure: one pass over samples, one over real pictures (cached), and the figures.

Samples → features → statistics → figures. `metrics.real_statistics` and `metrics.sample_statistics` collect statistics
batch by batch and rank by rank; the metrics compute figures from them.
"""

from collections.abc import Sequence
from typing import cast

from features.extractors import Extractor
from metrics.discriminant import ClassAccuracy
from metrics.frechet import Frechet
from metrics.inception_score import Score
from metrics.kernel import Kernel
from metrics.lpips import Diversity
from metrics.metric import OF_PICTURES, Context, Metric, Need
from metrics.modes import Modes
from metrics.precision_recall import DensityCoverage, PrecisionRecall
from metrics.real_statistics import GivenStatistics, RealStatistics
from metrics.sample_statistics import SampleStatistics
from records.figures import Direction, Figure

METRICS: tuple[Metric, ...] = (
    Frechet(), Kernel(), Score(), PrecisionRecall(), DensityCoverage(), Diversity(), ClassAccuracy(), Modes(),
)  # fmt: skip
"""All metrics, in the order in which their figures are shown."""


def chosen(names: Sequence[str]) -> list[Metric]:
    """The metrics with these names. ValueError, with the known names, for an unknown name or none."""
    known = {metric.name: metric for metric in METRICS}
    for name in names:
        if name not in known:
            raise ValueError(f"no metric {name!r}; there are {', '.join(known)}")
    if not names:
        raise ValueError(f"no metrics to measure; there are {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)]


def needs_of(metrics: Sequence[Metric]) -> frozenset[Need]:
    return frozenset[Need]().union(*(metric.needs for metric in metrics))


def headline(metrics: Sequence[Metric], extractor: Extractor) -> tuple[str, Direction]:
    """The figure that decides "best", and its direction: the Fréchet distance, else the first metric's."""
    leading = next((metric for metric in metrics if isinstance(metric, Frechet)), metrics[0])
    return next(iter(leading.directions(extractor).items()))


def unavailable(metric: Metric, context: Context) -> str | None:
    """Why a metric cannot be measured here, in one line; None if it can."""
    if context.real is None and metric.needs & OF_PICTURES:
        return "needs the real pictures, but only their statistics are given"
    return metric.unavailable(context)


def require_available(metrics: Sequence[Metric], context: Context) -> None:
    """Raises ValueError, in one line with the remedy, for the first metric that cannot be measured."""
    for metric in metrics:
        if (why := unavailable(metric, context)) is not None:
            raise ValueError(f"{metric.name}: {why}; or leave it out of the metrics")


def figures(
    metrics: Sequence[Metric], real: RealStatistics | GivenStatistics, fake: SampleStatistics
) -> dict[str, Figure]:
    """The figures of these metrics, by name, from the real pictures and all samples.

    ValueError if samples are missing, or do not allow a figure.
    """
    if not fake.complete:
        raise ValueError(f"{fake.seen} of {fake.total} samples were seen; figures need all of them")
    found: dict[str, Figure] = {}
    for metric in metrics:
        # A metric that needs more than Gaussians has been refused by now.
        found |= metric.figures(cast(RealStatistics, real), fake)
    return found

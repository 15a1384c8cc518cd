"""The engine behind every quality figure: one pass over samples, one over real pictures (kept), and then the figures.

Samples → features → statistics → figures. The statistics are gathered batch by batch and rank by rank, in
`metrics.real_statistics` and `metrics.sample_statistics`; the metrics make figures of them.
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
"""All there are, in the order in which their figures are shown."""


def chosen(names: Sequence[str]) -> list[Metric]:
    """The metrics of these names.

    Raises:
        ValueError: there is none of a name, or no name; the line lists them.
    """
    known = {metric.name: metric for metric in METRICS}
    for name in names:
        if name not in known:
            raise ValueError(f"no metric {name!r}; there are {', '.join(known)}")
    if not names:
        raise ValueError(f"no metrics to measure; there are {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)]


def needs_of(metrics: Sequence[Metric]) -> frozenset[Need]:
    """All that these metrics need."""
    return frozenset[Need]().union(*(metric.needs for metric in metrics))


def headline(metrics: Sequence[Metric], extractor: Extractor) -> tuple[str, Direction]:
    """The figure that "best" goes by, and which way it is better: the Fréchet distance, else the first metric's."""
    leading = next((metric for metric in metrics if isinstance(metric, Frechet)), metrics[0])
    return next(iter(leading.directions(extractor).items()))


def unavailable(metric: Metric, context: Context) -> str | None:
    """Why a metric cannot be measured here, in one line; None if it can."""
    if context.real is None and metric.needs & OF_PICTURES:
        return "needs the real pictures, and only their statistics are given"
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

    Raises:
        ValueError: samples are missing, or what they hold allows no figure; one line.
    """
    if not fake.complete:
        raise ValueError(f"{fake.seen} of {fake.total} samples were seen: no figure is given for a part")
    found: dict[str, Figure] = {}
    for metric in metrics:
        found |= metric.figures(
            cast(RealStatistics, real), fake
        )  # a metric that needs more than Gaussians has been refused
    return found

"""The kernel distance of two sets of features (KID on Inception features), in float64 on the CPU."""

from typing import TYPE_CHECKING

import numpy as np

from metrics.metric import Context, Metric, figure_name
from records.figures import Direction, Figure

if TYPE_CHECKING:
    from features.extractors import Extractor
    from metrics.real_statistics import RealStatistics
    from metrics.sample_statistics import SampleStatistics

SUBSETS, SUBSET_SIZE = 100, 1000
"""As in torch-fidelity."""


class Kernel(Metric):
    """The kernel distance: KID on Inception's features, KD-<extractor> on others'."""

    name = "kernel"
    needs = frozenset({"rows"})

    def directions(self, extractor: "Extractor") -> dict[str, Direction]:
        return {figure_name(extractor, "kd", "kid"): "lower"}

    def unavailable(self, context: Context) -> str | None:
        if context.fewest >= SUBSET_SIZE:
            return None
        return (
            f"draws subsets of {SUBSET_SIZE}, but there are {context.real_count} real pictures and "
            f"{context.fake.count} samples; take more"
        )

    def figures(self, real: "RealStatistics", fake: "SampleStatistics") -> dict[str, Figure]:
        ((name, better),) = self.directions(fake.extractor).items()
        mean, error = kernel_distance(fake.rows, real.rows, subsets=SUBSETS, subset_size=SUBSET_SIZE)
        settings = {"subsets": SUBSETS, "subset_size": SUBSET_SIZE, "spread": "standard error over subsets"}
        # Subsets that equal the whole set are all the same, and say nothing about an error.
        spread = error if max(len(fake.rows), len(real.rows)) > SUBSET_SIZE else None
        return {name: Figure(mean, better, spread, settings)}


def kernel_distance(
    generated: np.ndarray, real: np.ndarray, *, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE, seed: int = 2020
) -> tuple[float, float]:
    """Unbiased MMD² with the kernel (x·y / D + 1)³ (Bińkowski et al. 2018, §4; Gretton et al. 2012, eq. 3).

    The result is the mean over random subsets, which has no unit and may be slightly below 0, and its standard error,
    the subsets' standard deviation (divided by their number) over √subsets. The error covers the choice of the subsets
    and nothing else: not the choice of the rows (other samples of the same model), nor of the reference, nor another
    training run. More subsets shrink it, however few the rows.

    `generated` is float (M, D), `real` (N, D), in memory or mapped: only the rows of one subset are loaded at a time,
    in float64. Each subset takes `subset_size` rows of both, without replacement, from one
    `np.random.RandomState(seed)`, first of `generated`: the same draws, and so the same figure, as torch-fidelity's.

    ValueError for fewer rows than `subset_size`, `subset_size` < 2, `subsets` < 1, dimensions that differ, and NaN or
    infinity in a drawn row.
    """
    for rows, name in ((generated, "generated"), (real, "real")):
        if rows.ndim != 2:
            raise ValueError(f"{name}: expected shape (N, D), got {rows.shape}")
        if len(rows) < subset_size:
            raise ValueError(
                f"{name}: {len(rows)} rows are fewer than a subset's {subset_size}; "
                "take more samples or a smaller subset_size"
            )
    if generated.shape[1] != real.shape[1]:
        raise ValueError(
            f"generated of dimension {generated.shape[1]} and real of {real.shape[1]}: not of the same extractor"
        )
    if subset_size < 2 or subsets < 1:
        raise ValueError(f"take 1 subset of 2 rows at least, not {subsets} of {subset_size}")
    # The legacy generator, because published figures were computed with its draws.
    draws = np.random.RandomState(seed)
    values = np.empty(subsets)
    for subset in range(subsets):
        x = _drawn(generated, draws, subset_size, "generated")
        y = _drawn(real, draws, subset_size, "real")
        values[subset] = squared_discrepancy(x, y)
    return float(values.mean()), float(values.std()) / subsets**0.5


def squared_discrepancy(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimate of MMD² from x and y, float64 (n, D) each, n ≥ 2; about 0, or below, if they are alike.

    Pairs at equal positions count in the cross term, because the two sets are independent: Gretton et al. 2012, eq. 3.
    """
    count = len(x)
    within = 0.0
    for rows in (x, y):
        kernel = _cubic_kernel(rows, rows)
        within += kernel.sum() - kernel.trace()
    return float(within / (count * (count - 1)) - 2 * _cubic_kernel(x, y).sum() / count**2)


def _cubic_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x·y / D + 1)³ of every pair of rows: (n, m)."""
    kernel = x @ y.T
    kernel /= x.shape[1]
    kernel += 1
    kernel *= np.square(kernel)
    return kernel


def _drawn(rows: np.ndarray, draws: np.random.RandomState, size: int, name: str) -> np.ndarray:
    """`size` rows, float64. ValueError if any holds NaN or infinity."""
    # In the file's order, which reads a mapped file faster and does not change the figure.
    drawn = np.sort(draws.choice(len(rows), size, replace=False))
    subset = np.asarray(rows[drawn], dtype=np.float64)
    broken = int((~np.isfinite(subset)).any(axis=1).sum())
    if broken:
        raise ValueError(f"{name}: {broken} of {size} rows drawn hold NaN or infinity; look at the samples")
    return subset

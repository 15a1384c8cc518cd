"""The Inception Score, collected batch by batch, in float64 on the CPU."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from metrics.finite import finite
from metrics.metric import Context, Metric, figure_name
from records.figures import Direction, Figure

if TYPE_CHECKING:
    from features.extractors import Extractor
    from metrics.real_statistics import RealStatistics
    from metrics.sample_statistics import SampleStatistics

SPLITS = 10
"""As published."""


class Score(Metric):
    """The Inception Score, from the logits of any extractor that has them."""

    name = "inception_score"
    needs = frozenset({"logits"})

    def directions(self, extractor: "Extractor") -> dict[str, Direction]:
        return {figure_name(extractor, "is", "is"): "higher"}

    def unavailable(self, context: Context) -> str | None:
        if not context.extractor.num_logits:
            return f"{context.extractor.name} has no logits; take another extractor"
        if context.fake.count < SPLITS:
            return f"{context.fake.count} samples do not make {SPLITS} splits; take more"
        return None

    def figures(self, real: "RealStatistics", fake: "SampleStatistics") -> dict[str, Figure]:
        ((name, better),) = self.directions(fake.extractor).items()
        assert fake.scores is not None
        mean, deviation = inception_score(fake.scores)
        settings = {"splits": SPLITS, "spread": "standard deviation over splits"}
        return {name: Figure(mean, better, deviation, settings)}


@dataclass(eq=False)
class ScoreStatistics:
    """What an Inception Score needs of `count` samples' logits; memory splits × classes, whatever the count.

    The splits are contiguous ranges of sample indices: split i holds those from count·i // splits up to
    count·(i + 1) // splits, like torch-fidelity's with its shuffle off. Samples may come in any order of batches and
    from any rank.
    """

    count: int
    """Total number of samples to come."""
    seen: Tensor
    """(splits,) int64: samples seen."""
    index_sum: Tensor
    """(splits,) int64: the sum of their indices, which reveals a sample seen twice in place of another."""
    probability: Tensor
    """(splits, classes) float64: the sum of p."""
    log_probability: Tensor
    """(splits,) float64: the sum of p log p over samples and classes, in nats."""

    @classmethod
    def empty(cls, count: int, classes: int, splits: int = SPLITS) -> Self:
        """Statistics of no samples, of `count` to come. ValueError unless 1 ≤ splits ≤ count and classes ≥ 1."""
        if not 1 <= splits <= count:
            raise ValueError(f"{count} samples do not fill {splits} splits; take from 1 split to one per sample")
        if classes < 1:
            raise ValueError(f"classes must be at least 1, not {classes}")
        seen = torch.zeros(splits, dtype=torch.int64)
        probability = torch.zeros(splits, classes, dtype=torch.float64)
        return cls(count, seen, seen.clone(), probability, probability.new_zeros(splits))

    @property
    def splits(self) -> int:
        return len(self.seen)

    @property
    def classes(self) -> int:
        return self.probability.shape[1]

    def bounds(self, split: int) -> range:
        return range(self.count * split // self.splits, self.count * (split + 1) // self.splits)

    def update(self, start: int, logits: Tensor) -> None:
        """Adds `logits`, float (N, classes) on any device, of the samples start, start + 1, …; N may be 0.

        ValueError for another shape, indices outside range(count), or logits that are not finite; the statistics are
        then unchanged.
        """
        if logits.ndim != 2 or logits.shape[1] != self.classes:
            raise ValueError(f"logits: expected shape (N, {self.classes}), got {tuple(logits.shape)}")
        stop = start + len(logits)
        if start < 0 or stop > self.count:
            raise ValueError(f"samples {start} to {stop - 1} are not all among the {self.count} announced")
        log_p = finite(logits, "logits").log_softmax(1)
        p = log_p.exp()
        gathered = type(self).empty(self.count, self.classes, self.splits)
        for split in range(self.splits):
            bounds = self.bounds(split)
            first, last = max(start, bounds.start), min(stop, bounds.stop)
            if first < last:
                part = slice(first - start, last - start)
                gathered.seen[split] = last - first
                gathered.index_sum[split] = sum(range(first, last))
                gathered.probability[split] = p[part].sum(0)
                gathered.log_probability[split] = (p[part] * log_p[part]).sum()
        self.merge(gathered)

    def merge(self, other: "ScoreStatistics") -> None:
        """Adds everything that `other` has seen. ValueError if its count, splits or classes differ."""
        mine, others = (self.count, self.splits, self.classes), (other.count, other.splits, other.classes)
        if mine != others:
            raise ValueError(f"statistics of (count, splits, classes) {mine} and {others} do not belong together")
        # New tensors, not in place, because the creator of `self` may hold the old ones.
        self.seen = self.seen + other.seen
        self.index_sum = self.index_sum + other.index_sum
        self.probability = self.probability + other.probability
        self.log_probability = self.log_probability + other.log_probability


def inception_score(statistics: ScoreStatistics) -> tuple[float, float]:
    """exp of the mean KL(p(y|x) ‖ p(y)) in each split; mean and deviation over the splits (Salimans et al. 2016, §4).

    The mean is between 1 and the number of classes, and higher is better. The deviation divides by the number of
    splits. ValueError unless every sample was seen exactly once, because a score depends on the number of samples.
    """
    missing = statistics.count - int(statistics.seen.sum())
    if missing > 0:
        raise ValueError(
            f"{missing} of {statistics.count} samples were not seen; a score of the rest is another figure"
        )
    bounds = [statistics.bounds(split) for split in range(statistics.splits)]
    if statistics.seen.tolist() != [len(part) for part in bounds] or statistics.index_sum.tolist() != [
        sum(part) for part in bounds
    ]:
        raise ValueError(f"some of the {statistics.count} samples were seen more than once; look at the start indices")
    marginal = statistics.probability / statistics.seen[:, None]
    # Σ p (log p - log q), summed over samples, is Σ p log p - n Σ q log q; and 0 log 0 is 0.
    divergence = statistics.log_probability / statistics.seen - torch.xlogy(marginal, marginal).sum(1)
    scores = divergence.exp()
    return float(scores.mean()), float(scores.std(correction=0))

"""The samples' side of every figure: one pass over them, in as many parts as there are processes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from features.extractors import Extractor
from metrics.frechet import GaussianStatistics
from metrics.inception_score import ScoreStatistics
from metrics.lpips import LPIPSDiversity
from metrics.reference import NEED_ROWS, Metric, RowStore

SPLITS = 10
"""Of the Inception Score, as it was published."""


class Part(NamedTuple):
    """What one rank has seen, all but the features: small enough to be sent; each field as `Observation` has it."""

    share: range
    seen: int
    gaussian: GaussianStatistics
    scores: ScoreStatistics | None
    labels: list[Tensor]
    modes: list[Tensor]
    lpips_total: Tensor
    lpips_pairs: int


class Observation:
    """What one pass over samples keeps for the metrics asked for.

    Memory does not grow with the number of samples but for labels and modes; features go to disk, and only where a
    metric needs them.

    Args:
        metrics: What will be asked of it.
        extractor: Of the features.
        total: Samples over all ranks.
        share: The indices of this rank.
        folder: For what does not belong in memory.
        modes: The mode of each of some samples, where a metric asks.
        device: Of the LPIPS network.
    """

    def __init__(
        self,
        metrics: Sequence[Metric],
        extractor: Extractor,
        total: int,
        share: range,
        folder: Path,
        modes: Callable[[Tensor], Tensor] | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.metrics, self.extractor, self.total, self.share, self.folder = metrics, extractor, total, share, folder
        self.seen = 0
        self.gaussian = GaussianStatistics.empty(extractor.dimension)
        self.scores: ScoreStatistics | None = None
        if "inception_score" in metrics:
            self.scores = ScoreStatistics.empty(total, extractor.num_logits, SPLITS)
        self.store = RowStore(len(share), extractor.dimension, folder) if NEED_ROWS & set(metrics) else None
        self.labels: list[Tensor] = []
        self.modes: list[Tensor] = []
        self._mode_of = modes if "modes" in metrics else None
        self._lpips = LPIPSDiversity(device or torch.device("cpu")) if "lpips" in metrics else None
        self.lpips_total, self.lpips_pairs = torch.zeros(2, dtype=torch.float64), 0

    @property
    def complete(self) -> bool:
        """Whether every sample was seen."""
        return self.seen == self.total

    def update(self, pictures: Tensor, labels: Tensor | None) -> None:
        """Takes the next of this rank's samples: uint8 (n, C, H, W), and the classes that were asked for."""
        features = self.extractor(pictures)
        start = self.share.start + self.seen
        if "frechet" in self.metrics:
            self.gaussian.update(features)
        if self.scores is not None:
            self.scores.update(start, self.extractor.logits(features))
        if self.store is not None:
            self.store.write(self.seen, features)
        if labels is not None and "class_accuracy" in self.metrics:
            self.labels.append(labels.cpu())
        if self._mode_of is not None:
            self.modes.append(self._mode_of(pictures))
        if self._lpips is not None:
            self._lpips.update(pictures)
            self.lpips_total, self.lpips_pairs = self._lpips.total, self._lpips.pairs
        self.seen += len(pictures)

    @property
    def rows(self) -> np.ndarray:
        """The features, float32 (N, D), in the order of the samples."""
        assert self.store is not None
        return self.store.rows

    def part(self) -> Part:
        """What other ranks are told of this one's samples."""
        sums = (self.gaussian, self.scores, self.labels, self.modes, self.lpips_total, self.lpips_pairs)
        return Part(self.share, self.seen, *sums)

    def merge(self, others: Sequence[Part], store: RowStore | None) -> None:
        """Takes in the parts of the ranks after this one, in their order; `store` has the features of all samples."""
        self.store = store
        for part in others:
            self.seen += part.seen
            self.gaussian.merge(part.gaussian)
            if self.scores is not None and part.scores is not None:
                self.scores.merge(part.scores)
            self.labels += part.labels
            self.modes += part.modes
            self.lpips_total = self.lpips_total + part.lpips_total
            self.lpips_pairs += part.lpips_pairs


def share_of(count: int, rank: int, world: int) -> range:
    """A rank's part of range(count): no index twice, none left out, and pairs (2i, 2i + 1) never parted."""
    pairs = (count + 1) // 2
    return range(2 * (pairs * rank // world), min(2 * (pairs * (rank + 1) // world), count))

"""Statistics of samples, which every figure needs: one pass over them, shared by all processes."""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from features.extractors import Extractor
from metrics.frechet import GaussianStatistics
from metrics.inception_score import ScoreStatistics
from metrics.lpips import PairDistances
from metrics.metric import Need
from metrics.neighbours import NeighbourFigures, neighbour_figures
from metrics.real_statistics import RealStatistics
from metrics.row_store import RowStore, some_rows


class Part(NamedTuple):
    """What one rank has seen, without the features: small enough to send. The fields are `SampleStatistics`'."""

    share: range
    seen: int
    gaussian: GaussianStatistics
    scores: ScoreStatistics | None
    labels: list[Tensor]
    modes: list[Tensor]
    pairs: list[Tensor]


class SampleStatistics:
    """Statistics from one pass over samples.

    Memory grows with the number of samples only by one number per label, mode and pair. Features go to `folder`, and
    only if they are needed.

    Args:
        needs: What to keep.
        extractor: Of the features.
        total: Samples over all ranks.
        share: The indices of this rank.
        folder: For features on disk.
        modes: Gives the mode of each of some samples, if modes are needed.
        device: Of the LPIPS network.
    """

    def __init__(
        self,
        needs: AbstractSet[Need],
        extractor: Extractor,
        total: int,
        share: range,
        folder: Path,
        modes: Callable[[Tensor], Tensor] | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.needs, self.extractor, self.total, self.share, self.folder = needs, extractor, total, share, folder
        self.seen = 0
        self.gaussian = GaussianStatistics.empty(extractor.dimension)
        self.scores = ScoreStatistics.empty(total, extractor.num_logits) if "logits" in needs else None
        self.store = RowStore(len(share), extractor.dimension, folder) if "rows" in needs else None
        self.labels: list[Tensor] = []
        """The class that each sample was drawn for, int64, batch by batch."""
        self.modes: list[Tensor] = []
        """The mode that each shows, int64, -1 for none."""
        self.pairs: list[Tensor] = []
        """The perceptual distance of each pair, float64."""
        self._of_neighbours: NeighbourFigures | None = None
        self._mode_of = modes if "modes" in needs else None
        self._distances_of = PairDistances(device or torch.device("cpu")) if "pairs" in needs else None

    @property
    def complete(self) -> bool:
        return self.seen == self.total

    def update(self, pictures: Tensor, labels: Tensor | None) -> None:
        """Adds the next of this rank's samples: uint8 (n, C, H, W), and the classes that they were drawn for."""
        features = self.extractor(pictures)
        start = self.share.start + self.seen
        if "gaussian" in self.needs:
            self.gaussian.update(features)
        if self.scores is not None:
            self.scores.update(start, self.extractor.logits(features))
        if self.store is not None:
            self.store.write(self.seen, features)
        if labels is not None and "labels" in self.needs:
            self.labels.append(labels.cpu())
        if self._mode_of is not None:
            self.modes.append(self._mode_of(pictures))
        if self._distances_of is not None:
            self.pairs.append(self._distances_of(pictures))
        self.seen += len(pictures)

    @property
    def rows(self) -> np.ndarray:
        """The features, float32 (N, D), in the order of the samples."""
        assert self.store is not None
        return self.store.rows

    @cached_property
    def neighbours(self) -> np.ndarray:
        """The features among which neighbours are searched."""
        return some_rows(self.rows)

    def neighbour_figures(self, real: RealStatistics) -> NeighbourFigures:
        """Precision, recall, density and coverage, computed once, because each costs nearly as much as all."""
        if self._of_neighbours is None:
            self._of_neighbours = neighbour_figures(self.neighbours, real.neighbours, real_distances=real.distances)
        return self._of_neighbours

    def part(self) -> Part:
        return Part(self.share, self.seen, self.gaussian, self.scores, self.labels, self.modes, self.pairs)

    def merge(self, others: Sequence[Part], store: RowStore | None) -> None:
        """Adds the parts of the ranks after this one, in their order; `store` holds the features of all samples."""
        self.store = store
        for part in others:
            self.seen += part.seen
            self.gaussian.merge(part.gaussian)
            if self.scores is not None and part.scores is not None:
                self.scores.merge(part.scores)
            self.labels += part.labels
            self.modes += part.modes
            self.pairs += part.pairs


def share_of(count: int, rank: int, world: int) -> range:
    """A rank's part of range(count): every index once, and both of a pair (2i, 2i + 1) on the same rank."""
    pairs = (count + 1) // 2
    return range(2 * (pairs * rank // world), min(2 * (pairs * (rank + 1) // world), count))

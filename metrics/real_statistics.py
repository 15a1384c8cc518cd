"""Statistics of the real pictures, which every figure needs, computed once and cached."""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from features.extractors import Extractor
from metrics.cache import cached_arrays
from metrics.discriminant import DiscriminantStatistics, LinearDiscriminant
from metrics.frechet import GaussianStatistics
from metrics.metric import Need
from metrics.neighbours import DENSITY_NEIGHBOURS, NEIGHBOURS, neighbour_distances
from metrics.picture_set import PictureSet
from metrics.row_store import RowStore, some_rows

CLASSIFIER_HOLD_OUT = 5
"""One in this many real pictures is held out from the classifier, to measure its accuracy."""


class RealStatistics:
    """Statistics of the real pictures; each part is computed once and kept in the cache `folder`.

    The network takes `batch_size` pictures at a time; `quiet` shows no progress bars.
    """

    def __init__(
        self, pictures: PictureSet, extractor: Extractor, folder: Path, batch_size: int = 128, quiet: bool = True
    ) -> None:
        self.pictures, self.extractor, self.folder = pictures, extractor, folder
        self.batch_size, self.quiet = batch_size, quiet
        self._key = f"{pictures.cache_key} {pictures.count} {sorted(extractor.protocol().items())}"

    @property
    def count(self) -> int:
        return self.pictures.count

    def prepare(self, needs: AbstractSet[Need]) -> None:
        """Computes what is needed, in one pass of the network."""
        if "rows" in needs:
            self.rows  # noqa: B018 - computed on first access
        if "neighbours" in needs:
            self.distances  # noqa: B018
        if "gaussian" in needs:
            self.gaussian  # noqa: B018

    @cached_property
    def gaussian(self) -> GaussianStatistics:
        """Mean and covariance of the features."""

        def compute() -> dict[str, np.ndarray]:
            statistics = GaussianStatistics.empty(self.extractor.dimension)
            for features, _ in self._features():
                statistics.update(features)
            return {name: value.numpy() for name, value in statistics.state().items()}

        kept = cached_arrays(self.folder, f"gaussian {self._key}", compute)
        return GaussianStatistics.from_state({name: _tensor(value) for name, value in kept.items()})

    @cached_property
    def _labelled(self) -> dict[str, np.ndarray]:
        """`rows` and `labels`, read-only memory maps."""

        def compute() -> dict[str, np.ndarray]:
            store = RowStore(self.count, self.extractor.dimension, self.folder)
            labels = torch.full((self.count,), -1)
            start = 0
            for features, some in self._features():
                store.write(start, features)
                if some is not None:
                    labels[start : start + len(features)] = some
                start += len(features)
            return {"rows": store.rows, "labels": labels.numpy()}

        return cached_arrays(self.folder, f"rows {self._key}", compute)

    @property
    def rows(self) -> np.ndarray:
        """The features, float32 (N, D), a read-only memory map."""
        return self._labelled["rows"]

    @cached_property
    def labels(self) -> Tensor:
        """The labels, int64 (N,); -1 if there are none."""
        return _tensor(self._labelled["labels"])

    @property
    def neighbours(self) -> np.ndarray:
        """The rows among which neighbours are searched, at most `NEIGHBOURS`, drawn with a fixed seed."""
        return some_rows(self.rows)

    @property
    def distances(self) -> np.ndarray:
        """Distances from each of `neighbours` to its nearest others, float64 (n, DENSITY_NEIGHBOURS)."""

        def compute() -> dict[str, np.ndarray]:
            return {"distances": neighbour_distances(self.neighbours, DENSITY_NEIGHBOURS)}

        key = f"distances {DENSITY_NEIGHBOURS} {NEIGHBOURS} {self._key}"
        return cached_arrays(self.folder, key, compute)["distances"]

    @cached_property
    def classifier(self) -> tuple[LinearDiscriminant, float]:
        """A classifier fitted to the labelled features, and its accuracy on those held out from it."""
        rows, labels = self.rows, self.labels
        held_out = torch.arange(self.count) % CLASSIFIER_HOLD_OUT == 0
        # In a seeded order, because labels may be periodic, as those of drawn shapes are.
        order = torch.from_numpy(np.random.RandomState(0).permutation(self.count))
        statistics = DiscriminantStatistics.empty(self.pictures.num_classes, self.extractor.dimension)
        for part in order[~held_out].sort().values.split(4096):
            statistics.update(torch.from_numpy(rows[part.numpy()]), labels[part])
        fitted = LinearDiscriminant.fitted(statistics)
        right = 0
        for part in order[held_out].sort().values.split(4096):
            right += int((fitted.predict(torch.from_numpy(rows[part.numpy()])) == labels[part]).sum())
        return fitted, right / int(held_out.sum())

    def _features(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The features of all pictures, batch by batch; from the cached rows if they are loaded."""
        if "_labelled" in vars(self):
            for start in range(0, self.count, self.batch_size):
                yield torch.from_numpy(np.array(self.rows[start : start + self.batch_size])), None
            return
        starts = range(0, self.count, self.batch_size)
        for start in tqdm(starts, f"Features of {self.pictures.name}", unit="batch", disable=self.quiet or None):
            pictures, labels = self.pictures.read(range(start, min(start + self.batch_size, self.count)))
            yield self.extractor(pictures), labels


@dataclass(frozen=True)
class GivenStatistics:
    """A reference of which only mean and covariance are known, as others publish them.

    `count` is the number of pictures behind them, 0 if the file does not say, and the fingerprint that of the file.
    """

    gaussian: GaussianStatistics
    count: int
    fingerprint: str

    def prepare(self, needs: AbstractSet[Need]) -> None:
        """Nothing is left to compute."""


def _tensor(array: np.ndarray) -> Tensor:
    """A copy in memory, because torch does not take read-only maps."""
    return torch.from_numpy(np.array(array))

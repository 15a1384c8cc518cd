"""The engine behind every quality figure: one pass over samples, one over real pictures (kept), and then the figures.

Samples → features → statistics → figures. The first two steps run here, batch by batch and rank by rank; the last two
are the plain functions of `metrics.frechet`, `metrics.kernel` and the others.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from metrics.cache import cached_arrays
from metrics.discriminant import DiscriminantStatistics, LinearDiscriminant, class_accuracy
from metrics.extractors import Extractor
from metrics.frechet import GaussianStatistics, frechet_distance
from metrics.inception import WEIGHTS_SHA256 as INCEPTION_SHA256
from metrics.inception_score import ScoreStatistics, inception_score
from metrics.kernel import kernel_distance
from metrics.lpips import LPIPSDiversity, lpips_diversity
from metrics.modes import mode_coverage
from metrics.neighbours import neighbour_distances, neighbour_figures

Metric = Literal[
    "frechet", "kernel", "inception_score", "precision_recall", "density_coverage", "lpips", "class_accuracy", "modes"
]
METRICS: tuple[Metric, ...] = get_args(Metric)

SPLITS = 10
"""Of the Inception Score, as it was published."""
SUBSETS, SUBSET_SIZE = 100, 1000
"""Of the kernel distance, as torch-fidelity draws them."""
PRECISION_NEIGHBOURS, DENSITY_NEIGHBOURS = 3, 5
"""The k of precision and recall, and of density and coverage, as they were published."""
NEIGHBOURS = 10_000
"""Real pictures, and samples, that neighbours are sought among at most: the work grows with the square."""
CLASSIFIER_HOLD_OUT = 5
"""One in so many real pictures is kept from the classifier, to state its accuracy."""

_NEED_ROWS = {"kernel", "precision_recall", "density_coverage", "class_accuracy"}


@dataclass(frozen=True, eq=False)
class PictureSet:
    """Pictures that can be asked for by index, wherever they come from.

    Attributes:
        name: What messages call it.
        fingerprint: Changes with the pictures.
        count: How many there are.
        read: The pictures of these indices, uint8 (n, C, H, W) on any device, and their labels, int64 (n,), or None.
        modes: The mode that each of some pictures shows, where modes are known; -1 for none.
        num_modes: How many modes there are, in equal numbers; 0 where they are not known.
        num_classes: Of the labels; 0 where there are none.
    """

    name: str
    fingerprint: str
    count: int
    read: Callable[[Sequence[int]], tuple[Tensor, Tensor | None]]
    modes: Callable[[Tensor], Tensor] | None = None
    num_modes: int = 0
    num_classes: int = 0

    def subset(self, count: int) -> "PictureSet":
        """So many of them, drawn without replacement and with a fixed seed: data may lie sorted by class."""
        if count >= self.count:
            return self
        chosen = np.sort(np.random.RandomState(0).permutation(self.count)[:count])
        return PictureSet(
            name=self.name,
            fingerprint=f"{self.fingerprint} {count} at random",
            count=count,
            read=lambda indices: self.read([int(chosen[index]) for index in indices]),
            modes=self.modes,
            num_modes=self.num_modes,
            num_classes=self.num_classes,
        )


@dataclass(frozen=True)
class Figure:
    """One figure of quality.

    Attributes:
        value: The figure.
        better: Which way is better; None where neither is.
        spread: A standard deviation or error of it, where it has one; `settings` says which.
        settings: What it depends on besides the extractor and the pictures: neighbours, subsets, splits.
    """

    value: float
    better: Literal["lower", "higher"] | None
    spread: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def suffix_of(extractor: Extractor) -> str:
    """What the names of an extractor's figures end in: nothing for the FID's own network with its own weights."""
    standard = extractor.name == "Inception" and extractor.protocol()["weights_sha256"] == INCEPTION_SHA256
    return "" if standard else f"_{extractor.name.lower()}"


def headline(metrics: Sequence[Metric], extractor: Extractor) -> tuple[str, Literal["lower", "higher"]]:
    """The figure that "best" goes by, and which way is better: the Fréchet distance, else what comes first."""
    end = suffix_of(extractor)
    names: dict[Metric, tuple[str, Literal["lower", "higher"]]] = {
        "frechet": (f"fd{end}" if end else "fid", "lower"),
        "kernel": (f"kd{end}" if end else "kid", "lower"),
        "inception_score": (f"is{end}", "higher"),
        "precision_recall": ("recall", "higher"),
        "density_coverage": ("coverage", "higher"),
        "lpips": ("lpips_diversity", "higher"),
        "class_accuracy": ("class_accuracy", "higher"),
        "modes": ("modes_covered", "higher"),
    }
    return names["frechet" if "frechet" in metrics else metrics[0]]


def check_metrics(
    metrics: Sequence[str], extractor: Extractor, real: PictureSet | None, fake: PictureSet, real_count: int
) -> None:
    """Says before the first picture what could not be measured.

    Args:
        metrics: What is asked for.
        extractor: What it is to be measured with.
        real: The real pictures; None where only their mean and covariance are known.
        fake: The samples.
        real_count: Real pictures behind the statistics.

    Raises:
        ValueError: in one line, with the remedy.
    """
    for metric in metrics:
        if metric not in METRICS:
            raise ValueError(f"no metric {metric!r}; there are {', '.join(METRICS)}")
    if not metrics:
        raise ValueError(f"no metrics to measure; there are {', '.join(METRICS)}")
    remedy = f"leave it out, or ask for others of {', '.join(METRICS)}"
    needs_real = _NEED_ROWS & set(metrics)
    if real is None and needs_real:
        raise ValueError(f"{min(needs_real)}: needs the real pictures, and only their statistics are given; {remedy}")
    if "frechet" in metrics and min(real_count, fake.count) < 2:
        raise ValueError(f"frechet: needs 2 pictures on each side, there are {real_count} and {fake.count}")
    if "kernel" in metrics and min(real_count, fake.count) < SUBSET_SIZE:
        raise ValueError(
            f"kernel: draws subsets of {SUBSET_SIZE}, and there are {real_count} real pictures and {fake.count} "
            f"samples; take more, or {remedy}"
        )
    if "inception_score" in metrics and not extractor.num_logits:
        raise ValueError(f"inception_score: {extractor.name} has no logits; {remedy}")
    if "inception_score" in metrics and fake.count < SPLITS:
        raise ValueError(f"inception_score: {fake.count} samples do not make {SPLITS} splits; take more")
    least = DENSITY_NEIGHBOURS + 1
    if {"precision_recall", "density_coverage"} & set(metrics) and min(real_count, fake.count) < least:
        raise ValueError(f"precision and coverage need {least} pictures on each side; there are {fake.count} samples")
    if "lpips" in metrics and fake.count < 4:
        raise ValueError(f"lpips: {fake.count} samples make fewer than two pairs; take at least 4")
    if "class_accuracy" in metrics:
        if real is None or not real.num_classes:
            raise ValueError(f"class_accuracy: the real pictures have no labels; {remedy}")
        if fake.num_classes != real.num_classes:
            raise ValueError(
                f"class_accuracy: samples of {fake.num_classes or 'no'} classes, real pictures of {real.num_classes}; "
                f"{remedy}"
            )
    if "modes" in metrics and (real is None or real.modes is None):
        raise ValueError(f"modes: the modes of these data are not known; {remedy}")


# The real side.


class Reference:
    """What figures need to know of the real pictures; each part is computed once and kept in a cache folder.

    Args:
        pictures: The real pictures.
        extractor: Of the features.
        folder: Of the cache.
        batch_size: Pictures a pass of the network.
        quiet: No progress bars.
    """

    def __init__(
        self, pictures: PictureSet, extractor: Extractor, folder: Path, batch_size: int = 128, quiet: bool = True
    ) -> None:
        self.pictures, self.extractor, self.folder = pictures, extractor, folder
        self.batch_size, self.quiet = batch_size, quiet
        self._key = f"{pictures.fingerprint} {pictures.count} {sorted(extractor.protocol().items())}"
        self._rows: np.ndarray | None = None
        self._labels: Tensor | None = None
        self._gaussian: GaussianStatistics | None = None
        self._classifier: tuple[LinearDiscriminant, float] | None = None

    @property
    def count(self) -> int:
        """How many real pictures there are."""
        return self.pictures.count

    def prepare(self, metrics: Sequence[Metric]) -> None:
        """Computes what these metrics need, in one pass of the network, so that nothing is computed twice."""
        if _NEED_ROWS & set(metrics):
            self.rows  # noqa: B018 - computed on first access
        if {"precision_recall", "density_coverage"} & set(metrics):
            self.distances  # noqa: B018
        if "frechet" in metrics:
            self.gaussian  # noqa: B018

    @property
    def gaussian(self) -> GaussianStatistics:
        """Mean and covariance of the features."""
        if self._gaussian is None:

            def compute() -> dict[str, np.ndarray]:
                statistics = GaussianStatistics.empty(self.extractor.dimension)
                for features, _ in self._features():
                    statistics.update(features)
                return {name: value.numpy() for name, value in statistics.state().items()}

            kept = cached_arrays(self.folder, f"gaussian {self._key}", compute)
            self._gaussian = GaussianStatistics.from_state({name: _tensor(value) for name, value in kept.items()})
        return self._gaussian

    @property
    def rows(self) -> np.ndarray:
        """The features, float32 (N, D), a read-only memory map."""
        if self._rows is None:

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

            kept = cached_arrays(self.folder, f"rows {self._key}", compute)
            self._rows, self._labels = kept["rows"], _tensor(kept["labels"])
        return self._rows

    @property
    def labels(self) -> Tensor:
        """The labels, int64 (N,); -1 where there are none."""
        self.rows  # noqa: B018
        assert self._labels is not None
        return self._labels

    @property
    def neighbours(self) -> np.ndarray:
        """The rows that neighbours are sought among, at most `NEIGHBOURS`, drawn with a fixed seed."""
        return _some(self.rows)

    @property
    def distances(self) -> np.ndarray:
        """Distances from each of `neighbours` to its nearest others, float64 (n, DENSITY_NEIGHBOURS)."""

        def compute() -> dict[str, np.ndarray]:
            return {"distances": neighbour_distances(self.neighbours, DENSITY_NEIGHBOURS)}

        key = f"distances {DENSITY_NEIGHBOURS} {NEIGHBOURS} {self._key}"
        return cached_arrays(self.folder, key, compute)["distances"]

    def classifier(self) -> tuple[LinearDiscriminant, float]:
        """A classifier fitted to the labelled features, and its accuracy on those that were kept from it."""
        if self._classifier is None:
            rows, labels = self.rows, self.labels
            held_out = torch.arange(self.count) % CLASSIFIER_HOLD_OUT == 0
            # A seeded order first: labels may come in turns, as those of drawn shapes do.
            order = torch.from_numpy(np.random.RandomState(0).permutation(self.count))
            statistics = DiscriminantStatistics.empty(self.pictures.num_classes, self.extractor.dimension)
            for part in order[~held_out].sort().values.split(4096):
                statistics.update(torch.from_numpy(rows[part.numpy()]), labels[part])
            fitted = LinearDiscriminant.fitted(statistics)
            right = 0
            for part in order[held_out].sort().values.split(4096):
                right += int((fitted.predict(torch.from_numpy(rows[part.numpy()])) == labels[part]).sum())
            self._classifier = fitted, right / int(held_out.sum())
        return self._classifier

    def _features(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The features of all pictures, batch by batch; from the cached rows where they are there already."""
        if self._rows is not None:
            for start in range(0, self.count, self.batch_size):
                yield torch.from_numpy(np.array(self._rows[start : start + self.batch_size])), None
            return
        starts = range(0, self.count, self.batch_size)
        for start in tqdm(starts, f"Features of {self.pictures.name}", unit="batch", disable=self.quiet or None):
            pictures, labels = self.pictures.read(range(start, min(start + self.batch_size, self.count)))
            yield self.extractor(pictures), labels


@dataclass(frozen=True)
class KnownStatistics:
    """A reference of which only mean and covariance are known, as others publish them.

    Attributes:
        gaussian: Mean and covariance.
        count: Pictures behind them; 0 where the file does not say.
        fingerprint: Of the file.
    """

    gaussian: GaussianStatistics
    count: int
    fingerprint: str

    def prepare(self, metrics: Sequence[Metric]) -> None:
        """Nothing is left to compute."""


# The samples' side.


class RowStore:
    """Features on disk, float32 (count, dimension): a memory map over a file without a name, gone with its last user.

    Args:
        count: Rows.
        dimension: Of a row.
        folder: Where the file lies; made if missing.
    """

    def __init__(self, count: int, dimension: int, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it lives as long as the map
        self.rows: np.ndarray = np.memmap(self._file, np.float32, "w+", shape=(count, dimension))

    def write(self, start: int, features: Tensor) -> None:
        """Features float (n, dimension) as rows `start` and on."""
        self.rows[start : start + len(features)] = features.detach().float().cpu().numpy()


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
        self.store = RowStore(len(share), extractor.dimension, folder) if _NEED_ROWS & set(metrics) else None
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

    def gather(self) -> bool:
        """Brings all ranks' parts to rank 0, in the order of the samples. True there, False elsewhere."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return True
        rank, world = dist.get_rank(), dist.get_world_size()
        mine = {
            "share": (self.share.start, self.share.stop),
            "seen": self.seen,
            "gaussian": self.gaussian.state(),
            "scores": None if self.scores is None else self.scores.state(),
            "labels": self.labels,
            "modes": self.modes,
            "lpips": (self.lpips_total, self.lpips_pairs),
        }
        parts: list[Any] = [None] * world
        dist.all_gather_object(parts, mine)
        rows = None if self.store is None else self._gathered_rows([range(*part["share"]) for part in parts], rank)
        if rank != 0:
            return False
        self.seen = sum(part["seen"] for part in parts)
        self.store = rows
        for part in parts[1:]:
            self.gaussian.merge(GaussianStatistics.from_state(part["gaussian"]))
            if self.scores is not None:
                self.scores.merge(ScoreStatistics.from_state(part["scores"]))
            self.labels += part["labels"]
            self.modes += part["modes"]
            self.lpips_total = self.lpips_total + part["lpips"][0]
            self.lpips_pairs += part["lpips"][1]
        return True

    def _gathered_rows(self, shares: list[range], rank: int) -> RowStore | None:
        """All rows on rank 0, a few thousand of each rank at a time."""
        assert self.store is not None
        joint = RowStore(self.total, self.extractor.dimension, self.folder) if rank == 0 else None
        for first in range(0, max(map(len, shares)), 4096):
            chunk = torch.from_numpy(np.array(self.store.rows[first : first + 4096]))
            chunks: list[Any] = [None] * len(shares)
            dist.all_gather_object(chunks, chunk)
            if joint is not None:
                for share, rows in zip(shares, chunks, strict=True):
                    joint.write(share.start + first, rows)
        return joint


def share_of(count: int, rank: int, world: int) -> range:
    """A rank's part of range(count): no index twice, none left out, and pairs (2i, 2i + 1) never parted."""
    pairs = (count + 1) // 2
    return range(2 * (pairs * rank // world), min(2 * (pairs * (rank + 1) // world), count))


# The figures.


def figures(metrics: Sequence[Metric], real: Reference | KnownStatistics, fake: Observation) -> dict[str, Figure]:
    """All that was asked for, by name, from the real pictures and all samples.

    Raises:
        ValueError: samples are missing, or what they hold allows no figure; one line.
    """
    if not fake.complete:
        raise ValueError(f"{fake.seen} of {fake.total} samples were seen: no figure is given for a part")
    end = suffix_of(fake.extractor)
    found: dict[str, Figure] = {}
    if "frechet" in metrics:
        name = f"fd{end}" if end else "fid"
        found[name] = Figure(frechet_distance(real.gaussian, fake.gaussian), "lower")
    if "kernel" in metrics:
        assert isinstance(real, Reference)
        kernel = kernel_distance(fake.rows, real.rows, subsets=SUBSETS, subset_size=SUBSET_SIZE)
        settings = {"subsets": SUBSETS, "subset_size": SUBSET_SIZE, "spread": "standard error over subsets"}
        # Subsets that are the whole set are all the same, and say nothing about an error.
        error = kernel.standard_error if max(len(fake.rows), len(real.rows)) > SUBSET_SIZE else None
        name = f"kd{end}" if end else "kid"
        found[name] = Figure(kernel.mean, "lower", error, settings)
    if fake.scores is not None:
        score = inception_score(fake.scores)
        settings = {"splits": SPLITS, "spread": "standard deviation over splits"}
        found[f"is{end}"] = Figure(score.mean, "higher", score.deviation, settings)
    found |= _neighbours(metrics, real, fake)
    if "lpips" in metrics:
        mean, error = lpips_diversity(fake.lpips_total, fake.lpips_pairs)
        settings = {"network": LPIPSDiversity.name, "pairs": fake.lpips_pairs, "spread": "standard error"}
        found["lpips_diversity"] = Figure(mean, "higher", error, settings)
    if "class_accuracy" in metrics:
        assert isinstance(real, Reference)
        found["class_accuracy"] = _class_accuracy(real, fake)
    if "modes" in metrics:
        assert isinstance(real, Reference)
        coverage = mode_coverage(torch.cat(fake.modes), torch.ones(real.pictures.num_modes))
        settings = {"modes": real.pictures.num_modes}
        found["modes_covered"] = Figure(coverage.covered, "higher", None, settings)
        if coverage.divergence is not None:
            found["modes_kl"] = Figure(coverage.divergence, "lower", None, settings)
        found["modes_unrecognised"] = Figure(coverage.unrecognised, "lower", None, settings)
    return found


def _neighbours(metrics: Sequence[Metric], real: Reference | KnownStatistics, fake: Observation) -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    if not {"precision_recall", "density_coverage"} & set(metrics):
        return found
    assert isinstance(real, Reference)
    rows = _some(fake.rows)
    result = neighbour_figures(
        rows,
        real.neighbours,
        real_distances=real.distances,
        precision_neighbours=PRECISION_NEIGHBOURS,
        density_neighbours=DENSITY_NEIGHBOURS,
    )
    counts = {"real": len(real.neighbours), "samples": len(rows)}
    if "precision_recall" in metrics:
        settings = {"k": PRECISION_NEIGHBOURS, **counts}
        found["precision"] = Figure(result.precision, "higher", None, settings)
        found["recall"] = Figure(result.recall, "higher", None, settings)
    if "density_coverage" in metrics:
        settings = {"k": DENSITY_NEIGHBOURS, **counts}
        found["density"] = Figure(result.density, "higher", None, settings)
        found["coverage"] = Figure(result.coverage, "higher", None, settings)
    return found


def _class_accuracy(real: Reference, fake: Observation) -> Figure:
    classifier, accuracy = real.classifier()
    predicted = [
        classifier.predict(torch.from_numpy(np.array(fake.rows[i : i + 4096]))) for i in range(0, fake.total, 4096)
    ]
    by_class = class_accuracy(torch.cat(predicted), torch.cat(fake.labels), real.pictures.num_classes)
    settings = {
        "classifier": "linear discriminant on the extractor's features",
        "classifier_accuracy": round(accuracy, 6),
        "by_class": [round(value, 6) for value in by_class.tolist()],
    }
    return Figure(float(by_class.nanmean()), "higher", None, settings)


def _some(rows: np.ndarray) -> np.ndarray:
    if len(rows) <= NEIGHBOURS:
        return rows
    return rows[np.sort(np.random.RandomState(0).permutation(len(rows))[:NEIGHBOURS])]


def _tensor(array: np.ndarray) -> Tensor:
    """A copy in memory: torch does not take read-only maps."""
    return torch.from_numpy(np.array(array))

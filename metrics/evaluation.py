"""The engine behind every quality figure: one pass over samples, one over real pictures (kept), and then the figures.

Samples → features → statistics → figures. The first two steps run in `metrics.reference` and `metrics.observation`,
batch by batch and rank by rank; the last two are the plain functions of `metrics.frechet`, `metrics.kernel` and the
others, which are called here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from features.extractors import Extractor
from features.inception import WEIGHTS_SHA256 as INCEPTION_SHA256
from metrics.discriminant import class_accuracy
from metrics.frechet import frechet_distance
from metrics.inception_score import inception_score
from metrics.kernel import kernel_distance
from metrics.lpips import LPIPSDiversity, lpips_diversity
from metrics.modes import mode_coverage
from metrics.neighbours import neighbour_figures
from metrics.observation import SPLITS, Observation
from metrics.reference import (
    DENSITY_NEIGHBOURS,
    METRICS,
    NEED_ROWS,
    KnownStatistics,
    Metric,
    PictureSet,
    Reference,
    some_rows,
)

SUBSETS, SUBSET_SIZE = 100, 1000
"""Of the kernel distance, as torch-fidelity draws them."""
PRECISION_NEIGHBOURS = 3
"""The k of precision and recall, as they were published."""


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
    needs_real = NEED_ROWS & set(metrics)
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
    rows = some_rows(fake.rows)
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
    classifier, accuracy = real.classifier
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

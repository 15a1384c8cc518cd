"""Diagnoses a model: collapse, memorisation, overfitting, instability, uneven classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from callbacks.intervals import AtIntervals
from callbacks.lookup import data_of, find, model_of
from callbacks.picture_sets import DataSet, in_batches, model_samples, real_pictures
from callbacks.quality import Quality
from callbacks.run import kimg_name, run_of
from features.extractors import Extractor
from media.pictures import from_levels, grid
from metrics.diagnosis import (
    discriminator_overfitting,
    instability,
    memorisation,
    mode_collapse,
    uneven_classes,
)
from metrics.neighbours import nearest
from metrics.picture_set import PictureSet
from metrics.real_statistics import RealStatistics
from metrics.sample_statistics import SampleStatistics
from models.training.base import GenerativeModel
from models.training.capabilities import HasCritic
from records.diagnosis import NUM_SAMPLES, Finding, Findings
from records.figures import Direction
from records.folder import rows_of

SHOWN, NEAREST = 8, 4
"""Rows of the picture of nearest neighbours, and training pictures in each."""


@dataclass(frozen=True, eq=False)
class Diagnosed:
    """The result of a diagnosis.

    Attributes:
        findings: one for each check that was possible.
        closest: uint8 (C, H, W): the samples closest to training pictures, each in a row with the nearest of those.
    """

    findings: list[Finding]
    closest: Tensor


def diagnose(
    samples: PictureSet,
    data: DataSet,
    extractor: Extractor,
    folder: Path,
    batch_size: int = 128,
    model: GenerativeModel | None = None,
    curves: tuple[Sequence[Mapping[str, float]], str, Direction | None] | None = None,
    quiet: bool = True,
) -> Diagnosed:
    """Performs all checks that are possible on these samples.

    Args:
        samples: samples of the model.
        data: the training data; its "test" split, if any, serves as unseen pictures.
        extractor: the feature extractor.
        folder: the cache folder.
        batch_size: pictures per batch.
        model: the model, if known.
        curves: rows of metrics.jsonl, the name of the figure to examine, and its direction.
        quiet: whether to hide progress bars.

    Raises ValueError if there are too few pictures on either side.
    """
    train = RealStatistics(real_pictures(data, "train"), extractor, folder, batch_size, quiet)
    count = min(samples.count, train.count // 2)
    if count < 10:
        raise ValueError(
            f"a diagnosis needs 10 samples and 20 training pictures, not {samples.count} and {train.count}"
        )
    unseen_pictures = real_pictures(data, "test", count) if "test" in data.splits() else None
    unseen = None if unseen_pictures is None else RealStatistics(unseen_pictures, extractor, folder, batch_size, quiet)
    seen = SampleStatistics({"rows"}, extractor, samples.count, range(samples.count), folder)
    for pictures, _ in in_batches(samples, range(samples.count), batch_size):
        seen.update(pictures, None)
    fake = np.array(seen.rows)

    order = np.random.RandomState(0).permutation(train.count)
    half, other_half = (np.array(train.rows[np.sort(part)]) for part in (order[:count], order[count : 2 * count]))
    adversarial = model is None or isinstance(model, HasCritic)
    findings = [
        mode_collapse(half, other_half, fake[:count], adversarial),
        memorisation(train.rows, None if unseen is None else unseen.rows, fake, adversarial),
    ]
    if isinstance(model, HasCritic):
        logits = [
            _logits(model, model, pictures, batch_size)
            for pictures in (train.pictures.subset(count), unseen_pictures, samples)
            if pictures is not None
        ]
        unseen_logits = logits[1] if unseen is not None else None
        rows = () if curves is None else curves[0]
        findings.append(discriminator_overfitting(logits[0], unseen_logits, logits[-1], model.zero_is_undecided, rows))
    if curves is not None:
        findings.append(instability(*curves, adversarial))
    if data.num_classes and set(train.labels.tolist()) != {-1}:
        classifier, accuracy = train.classifier
        in_samples, in_data = (classifier.predict(torch.from_numpy(rows)) for rows in (fake, half))
        names = tuple(getattr(data, "class_names", ())) or tuple(map(str, range(data.num_classes)))
        conditional = model is not None and model.label_classes > 0
        findings.append(uneven_classes(in_samples, in_data, names, accuracy, conditional))
    return Diagnosed(findings, _closest(samples, fake, train))


def _logits(model: GenerativeModel, judge: HasCritic, pictures: PictureSet, batch_size: int) -> Tensor:
    """The discriminator's logits, float (N,) on the CPU."""
    found = []
    with torch.no_grad(), model.in_eval_mode():
        for some, labels in in_batches(pictures, range(pictures.count), batch_size):
            x = from_levels(some.to(model.device))
            y = model.given_labels(labels, len(x)).to(model.device)
            found.append(judge.logits(x, y).float().cpu())
    return torch.cat(found)


def _closest(samples: PictureSet, fake: np.ndarray, train: RealStatistics) -> Tensor:
    distances, indices = nearest(fake, train.rows, min(NEAREST, train.count))
    shown = np.argsort(distances[:, 0], kind="stable")[:SHOWN]
    pictures = []
    for row in shown:
        pictures.append(samples.read([int(row)])[0].cpu())
        pictures.append(train.pictures.read([int(index) for index in indices[row]])[0].cpu())
    return grid(torch.cat(pictures), columns=1 + indices.shape[1])


def in_words(findings: Sequence[Finding]) -> str:
    """Findings as text for a terminal."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.name:<{width}}  {finding.verdict:<8} {finding.says}")
        if finding.helps:
            lines.append(f"{'':<{width}}  {'':<8} what usually helps: {finding.helps}")
    return "\n".join(lines)


class Diagnosis(AtIntervals):
    """Diagnoses the model at intervals, if asked to: findings into run.json, the picture into `diagnosis/`.

    It shares extractor, seed and cache with the quality callback.

    Args:
        every_kimg: thousand samples between diagnoses; none if left out.
        num_samples: number of samples.
    """

    always: ClassVar[bool] = False

    def __init__(self, every_kimg: float | None = None, num_samples: int = NUM_SAMPLES) -> None:
        if num_samples < 10:
            raise ValueError(f"diagnosis.num_samples must be at least 10, not {num_samples}")
        super().__init__(every_kimg)
        self.num_samples = num_samples

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises ValueError before the first batch if the model has no samples."""
        why = model_of(pl_module).why_no_samples
        if self.every_kimg is not None and why is not None:
            raise ValueError(f"diagnosis.every_kimg: {why}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        model = model_of(pl_module)
        if not self.due(trainer, model.samples_seen) or not Quality.applies(model):
            return
        if trainer.is_global_zero:
            with model.phase("metrics"):
                self._diagnose(trainer, model)
        trainer.strategy.barrier()

    def _diagnose(self, trainer: Trainer, model: GenerativeModel) -> None:
        quality, run = find(trainer, Quality), run_of(trainer)
        if quality is None:
            raise ValueError("the diagnosis callback needs a callbacks.quality.Quality, whose features it uses")
        rows = list(rows_of(run.folder / "metrics.jsonl"))
        diagnosed = diagnose(
            model_samples(
                model, self.num_samples, quality.seed, model.settled(model.settings_class(weights=quality.weights))
            ),
            data_of(trainer),
            quality.network(model.device),
            quality.cache,
            quality.batch_size,
            model,
            (rows, *run.headline) if run.headline else None,
        )
        path = run.folder / "diagnosis" / f"{kimg_name(model.samples_seen)}.png"
        run.write_picture(trainer, "nearest training pictures", diagnosed.closest, path)
        run.record.diagnosis = Findings(
            model.samples_seen, diagnosed.findings, self.num_samples, quality.weights, model.device.type
        )
        run.save(trainer)

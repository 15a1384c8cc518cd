"""A grid of samples from the same latents every time, so that one sees what training changes."""

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.budget import budget_of
from callbacks.intervals import Interval
from callbacks.lookup import data_of, model_of
from callbacks.measuring import ReferenceData, held_out, in_batches, real_pictures, reconstructions
from callbacks.run import run_of
from media.pictures import grid, to_uint8, where_points_lie
from metrics.reference import PictureSet
from models.training.base import GenerativeModel, SamplerSettings
from models.training.capabilities import Encodes

POINTS = 4096
"""Samples that a picture of points shows."""


class SampleGrid(Callback):
    """Writes `samples/kimg<...>.png` and logs it to W&B, at the start, at intervals and at the end.

    A conditional model's grid has one row a class, with the same latents in every row. A model that encodes also leaves
    `samples/reconstructions_kimg<...>.png`: held-out pictures, each with what the model makes of it below. Of points in
    the plane a picture shows where samples lie.

    Args:
        every_kimg: thousand samples between two grids; a tenth of the budget where left out (50 without a budget).
        rows: rows of the grid; the number of classes (at most 32) for a conditional model.
        columns: columns of the grid.
        batch_size: samples drawn at once.
    """

    def __init__(self, every_kimg: float | None = None, rows: int = 8, columns: int = 8, batch_size: int = 64) -> None:
        if min(rows, columns, batch_size) < 1:
            raise ValueError("samples.rows, samples.columns and samples.batch_size must be at least 1")
        self.every_kimg, self.rows, self.columns, self.batch_size = every_kimg, rows, columns, batch_size
        self._interval = Interval(every_kimg or 50.0)
        self._drawn_at = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._interval = Interval(self.every_kimg or (budget_of(trainer).kimg or 500.0) / 10)
        self._interval.start(model_of(pl_module).samples_seen)
        if model_of(pl_module).samples_seen == 0:
            self._draw(trainer, model_of(pl_module))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        model = model_of(pl_module)
        if self._interval.passed(model.samples_seen):
            self._draw(trainer, model)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._drawn_at != model_of(pl_module).samples_seen:
            self._draw(trainer, model_of(pl_module))

    def _draw(self, trainer: Trainer, model: GenerativeModel) -> None:
        self._drawn_at = model.samples_seen
        if not trainer.is_global_zero:
            return
        folder, at = run_of(trainer).folder / "samples", f"kimg{model.samples_seen / 1000:010.3f}.png"
        if model.data_shape == (2,):
            picture = where_points_lie(model.sample(range(POINTS)))
            run_of(trainer).write_picture(trainer, "samples", picture, folder / at)
        if len(model.data_shape) != 3:
            return
        if model.why_no_samples is None:
            picture = grid(sample_grid(model, self.rows, self.columns, self.batch_size), self.columns)
            run_of(trainer).write_picture(trainer, "samples", picture, folder / at)
        if isinstance(model, Encodes):
            data: ReferenceData = data_of(trainer)
            pictures = real_pictures(data, held_out(data)).subset(self.columns * ((self.rows + 1) // 2))
            pairs = reconstruction_grid(model, pictures, self.columns, self.batch_size)
            path = folder / f"reconstructions_{at}"
            run_of(trainer).write_picture(trainer, "reconstructions", grid(pairs, self.columns), path)


def reconstruction_grid(
    model: GenerativeModel,
    pictures: PictureSet,
    columns: int,
    batch_size: int,
    settings: SamplerSettings | None = None,
) -> Tensor:
    """Rows of pictures, each with a row of what the model makes of them below: uint8 (2 N, C, H, W) on the CPU."""
    made = reconstructions(model, pictures, model.settings_class() if settings is None else settings)
    whole = range(pictures.count)
    originals, copies = (
        torch.cat([some.cpu() for some, _ in in_batches(each, whole, batch_size)]) for each in (pictures, made)
    )
    rows = zip(originals.split(columns), copies.split(columns), strict=True)
    return torch.cat([picture for pair in rows for picture in pair])


def sample_grid(
    model: GenerativeModel,
    rows: int,
    columns: int,
    batch_size: int,
    seed: int = 0,
    settings: SamplerSettings | None = None,
) -> Tensor:
    """The pictures of a grid, uint8 (rows * columns, C, H, W) on the CPU; a conditional model's has one row a class."""
    classes = min(model.label_classes, 32)
    rows = classes or rows
    indices = [row * columns + column if not classes else column for row in range(rows) for column in range(columns)]
    labels = [row for row in range(rows) for _ in range(columns)] if classes else None
    drawn = []
    for start in range(0, len(indices), batch_size):
        chosen = slice(start, start + batch_size)
        x = model.sample(indices[chosen], labels[chosen] if labels else None, seed=seed, settings=settings)
        drawn.append(to_uint8(x).cpu())
    return torch.cat(drawn)

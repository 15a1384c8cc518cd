"""Grids of samples from fixed latents, to show the progress of training."""

import torch
from lightning import Trainer
from torch import Tensor

from callbacks.intervals import Shows
from callbacks.lookup import data_of
from callbacks.picture_sets import DataSet, held_out, in_batches, real_pictures, reconstructions
from callbacks.run import kimg_name, run_of
from media.pictures import grid, to_uint8, where_points_lie
from metrics.picture_set import PictureSet
from models.training.base import GenerativeModel
from models.training.capabilities import Encodes
from settings.sampling import SamplerSettings

POINTS = 4096
"""Samples in a picture of points."""


class SampleGrid(Shows):
    """Writes `samples/kimg<...>.png` and logs it to W&B, at the start, at intervals and at the end.

    A conditional model's grid has a row for each class, with the same latents in every row. A model that encodes also
    writes `samples/reconstructions_kimg<...>.png`: held-out pictures, each with its reconstruction below. For points in
    the plane, the picture is a scatter plot.

    Args:
        rows: rows of the grid; the number of classes (at most 32) for a conditional model.
        columns: columns of the grid.
        batch_size: samples per batch.
    """

    def __init__(self, every_kimg: float | None = None, rows: int = 8, columns: int = 8, batch_size: int = 64) -> None:
        if min(rows, columns, batch_size) < 1:
            raise ValueError("samples.rows, samples.columns and samples.batch_size must be at least 1")
        super().__init__(every_kimg)
        self.rows, self.columns, self.batch_size = rows, columns, batch_size

    def show(self, trainer: Trainer, model: GenerativeModel) -> None:
        """Writes the pictures; see `Shows.show`."""
        folder, at = run_of(trainer).folder / "samples", f"{kimg_name(model.samples_seen)}.png"
        if model.data_shape == (2,):
            picture = where_points_lie(model.sample(range(POINTS)))
            run_of(trainer).write_picture(trainer, "samples", picture, folder / at)
        if len(model.data_shape) != 3:
            return
        if model.why_no_samples is None:
            picture = grid(sample_grid(model, self.rows, self.columns, self.batch_size), self.columns)
            run_of(trainer).write_picture(trainer, "samples", picture, folder / at)
        if isinstance(model, Encodes):
            data: DataSet = data_of(trainer)
            pictures = real_pictures(data, held_out(data)).subset(self.columns * ((self.rows + 1) // 2))
            pairs = reconstruction_grid(model, pictures, self.columns, self.batch_size)
            path = folder / f"reconstructions_{at}"
            run_of(trainer).write_picture(trainer, "reconstructions", grid(pairs, self.columns), path)


def reconstruction_grid(
    model: GenerativeModel, pictures: PictureSet, columns: int, batch_size: int, settings: SamplerSettings | None = None
) -> Tensor:
    """Rows of pictures, each with a row of reconstructions below: uint8 (2 N, C, H, W) on the CPU."""
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
    """The pictures of a grid, uint8 (rows * columns, C, H, W) on the CPU; a row for each class if conditional."""
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

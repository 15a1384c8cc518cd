"""`predict`: samples drawn by every device at once, written as numbered PNGs."""

from collections.abc import Iterator
from pathlib import Path

import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import IterableDataset

from media.pictures import save_png, to_uint8
from metrics.observation import share_of


class SampleIndices(IterableDataset[list[int]]):
    """This rank's share of range(count), in batches; every index once, on one rank."""

    def __init__(self, count: int, batch_size: int) -> None:
        self.count, self.batch_size = count, batch_size

    def __iter__(self) -> Iterator[list[int]]:
        together = dist.is_available() and dist.is_initialized()
        rank, world = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        mine = share_of(self.count, rank, world)
        for start in range(0, len(mine), self.batch_size):
            yield list(mine[start : start + self.batch_size])


class Predictions(Callback):
    """Writes each sample to `folder/<index>.png`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Tensor,
        batch: list[int],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        for index, picture in zip(batch, to_uint8(outputs).cpu(), strict=True):
            save_png(picture, self.folder / f"{int(index):06d}.png")

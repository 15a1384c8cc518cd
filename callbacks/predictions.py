"""`predict`: samples drawn on all devices, written as numbered PNGs."""

from collections.abc import Iterator
from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import IterableDataset

from media.pictures import save_png, to_uint8
from metrics.sample_statistics import share_of


class SampleIndices(IterableDataset[list[int]]):
    """This rank's share of range(count), in batches; each index is on one rank."""

    def __init__(self, trainer: Trainer, count: int, batch_size: int) -> None:
        self.trainer, self.count, self.batch_size = trainer, count, batch_size

    def __iter__(self) -> Iterator[list[int]]:
        mine = share_of(self.count, self.trainer.global_rank, self.trainer.world_size)
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

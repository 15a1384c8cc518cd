"""CIFAR-10: 60,000 colour photographs, 32×32, ten classes (Krizhevsky, 2009)."""

from http.client import HTTPException
from pathlib import Path

import torch
import torchvision
from torchvision.datasets.utils import check_integrity

from datamodules.base import PictureDataModule, Pictures, Split, one_line, resized

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class CIFAR10(PictureDataModule):
    """CIFAR-10: 50,000 pictures to train on, 10,000 to test on, RGB, ten classes.

    Reads the official python batches in `data_dir`/cifar-10-batches-py, and downloads them if they are missing.

    Args:
        data_dir: The folder that holds, or will hold, cifar-10-batches-py.
        resolution: Height and width. 32 is native; any other size is resampled (bilinear, antialiased).
        flip: Mirror half of the training pictures.
        batch_size: Of one discriminator step, over all ranks.
        seed: Of the order and of the flips.
        num_workers: Loading processes per rank. 0 is fastest: a batch is one gather from memory.
        train_limit: Train on this many pictures only. The test split stays whole.
    """

    def __init__(
        self,
        data_dir: str = "data",
        resolution: int = 32,
        flip: bool = True,
        batch_size: int = 64,
        seed: int = 0,
        num_workers: int = 0,
        train_limit: int | None = None,
    ) -> None:
        super().__init__(resolution, 3, len(CLASS_NAMES), CLASS_NAMES, flip, batch_size, seed, num_workers, train_limit)
        self.data_dir = data_dir

    def prepare_data(self) -> None:
        """Downloads the batches if they are missing. Raises FileNotFoundError, with a remedy, if that fails."""
        official = torchvision.datasets.CIFAR10
        folder = Path(self.data_dir) / official.base_folder
        if all(check_integrity(folder / name, md5) for name, md5 in official.train_list + official.test_list):
            return
        try:
            official(self.data_dir, download=True)
        except (OSError, HTTPException, RuntimeError) as error:
            raise FileNotFoundError(self._how_to_get_it(f"the download failed ({one_line(error)})")) from error

    def identity(self) -> tuple[object, ...]:
        """The official md5 of each file, which `load` verifies."""
        official = torchvision.datasets.CIFAR10
        return tuple(md5 for _, md5 in official.train_list + official.test_list)

    def load(self, split: Split) -> Pictures:
        """Reads a split. Raises FileNotFoundError, with a remedy, if a batch is missing or is not the official one."""
        # The batches are pickles, and a pickle can run code. torchvision's constructor compares every batch with its
        # official md5 before it opens one, and raises if they differ, so only the published bytes are unpickled.
        try:
            source = torchvision.datasets.CIFAR10(self.data_dir, train=split == "train")
        except RuntimeError as error:
            raise FileNotFoundError(self._how_to_get_it("missing or corrupt")) from error
        labels = torch.tensor(source.targets, dtype=torch.int64)
        return Pictures(resized(torch.from_numpy(source.data), self.resolution), labels)

    def _how_to_get_it(self, problem: str) -> str:
        folder = Path(self.data_dir) / torchvision.datasets.CIFAR10.base_folder
        return (
            f"{folder}: {problem}; unpack the official cifar-10-python.tar.gz into data_dir ({self.data_dir!r}), "
            "or run once with a network"
        )

"""Fashion-MNIST: 70,000 grey pictures of clothes, 28×28 (Xiao, Rasul and Vollgraf, 2017, arXiv:1708.07747)."""

import gzip
import hashlib
import math
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torchvision
from torch import Tensor

from datamodules.base import PictureDataModule, Pictures, Split, one_line, resized

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the files."""
EXCERPT = Path(__file__).parent / "fashion_mnist_excerpt"
"""The first 10,000 training pictures, which come with this project."""
FILE_PREFIX: dict[Split, str] = {"train": "train", "test": "t10k"}
CLASS_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def read_idx(path: Path) -> Tensor:
    """Reads an idx file of unsigned bytes, gzipped or not: uint8, of the shape in its header.

    The format: two zero bytes, the type (8, unsigned byte), the number of dimensions, each dimension as a big-endian
    32-bit integer, then the values, row by row. ValueError, naming the file, if it is corrupt, cut short, or too long.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({one_line(error)}); remove or replace it") from error
    if len(data) < 4 or data[:3] != b"\x00\x00\x08" or len(data) < 4 + 4 * data[3]:
        raise ValueError(f"{path}: not an idx file of unsigned bytes; remove or replace it")
    header = 4 + 4 * data[3]
    shape = tuple(np.frombuffer(data[4:header], dtype=">u4").tolist())
    if len(data) - header != math.prod(shape):
        raise ValueError(
            f"{path}: holds {len(data) - header} values, but its header says {shape}; remove or replace it"
        )
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape).copy())


def find_idx(folder: Path, name: str) -> Path | None:
    """The file of this name in a folder, gzipped or not; None if there is neither."""
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)


class FashionMNIST(PictureDataModule):
    """Fashion-MNIST: 60,000 pictures to train on, 10,000 to test on, grey, ten classes.

    The files are looked for in `data_dir`, in `data_dir`/FashionMNIST/raw (torchvision's layout), and where Debian's
    package dataset-fashion-mnist puts them.

    Args:
        data_dir: The folder that holds the four idx files, or that they are downloaded into.
        resolution: Height and width. 28 is native; 32 pads with black, which keeps every pixel; any other size is
            resampled.
        excerpt: True for the 10,000 training pictures that come with this project, which have no test split; False for
            all 60,000, downloaded into `data_dir` if they are missing. None, the default, never downloads: it takes all
            60,000 if they are found, else the excerpt, and the attribute says which.
        flip: Mirror half of the training pictures. Off, because every shoe in this dataset points to the left.
        batch_size: Of one discriminator step, over all ranks.
        seed: Of the order and of the flips.
        num_workers: Loading processes per rank. 0 is fastest: a batch is one gather from memory.
        train_limit: Train on this many pictures only. The rest of the excerpt becomes the test split.
    """

    split_remedy: ClassVar[str] = (
        "the excerpt has training pictures only; use split 'train', hold some back (train_limit), or set excerpt: false"
    )

    def __init__(
        self,
        data_dir: str = "data",
        resolution: int = 32,
        excerpt: bool | None = None,
        flip: bool = False,
        batch_size: int = 64,
        seed: int = 0,
        num_workers: int = 0,
        train_limit: int | None = None,
    ) -> None:
        super().__init__(resolution, 1, len(CLASS_NAMES), CLASS_NAMES, flip, batch_size, seed, num_workers, train_limit)
        self.data_dir = data_dir
        self.excerpt = bool(excerpt)
        if excerpt is None:  # decided here, so that checkpoints and config.yaml keep the answer
            self.excerpt = self._find_files() is None

    @property
    def note(self) -> str:
        """Which of the two datasets it is, and where it comes from."""
        if not self.excerpt:
            return f"the complete dataset, in {self._files()['train'][0].parent}"
        held_out = "" if "test" in self.splits() else ", none held out"
        return (
            f"the bundled 10,000 pictures{held_out}; for all 60,000: --data.excerpt false, which downloads what is not "
            "found"
        )

    def stored_splits(self) -> tuple[Split, ...]:
        return ("train",) if self.excerpt else ("train", "test")

    def prepare_data(self) -> None:
        """Downloads the files if they are nowhere. Raises FileNotFoundError, with a remedy, if that fails."""
        if self._find_files() is not None:
            return
        try:
            torchvision.datasets.FashionMNIST(self.data_dir, download=True)
        except (OSError, HTTPException, RuntimeError) as error:
            raise FileNotFoundError(self._how_to_get_it(f"the download failed ({one_line(error)})")) from error

    def identity(self) -> tuple[object, ...]:
        """The hash of each file's content, so that the same data elsewhere, or compressed anew, are the same data."""
        files = [file for pair in self._files().values() for file in pair]
        return tuple(hashlib.sha256(read_idx(file).numpy().tobytes()).hexdigest() for file in files)

    def load(self, split: Split) -> Pictures:
        """Reads a split.

        Raises:
            FileNotFoundError: The files are nowhere; the message names the remedies.
            ValueError: A file is corrupt; the message names it.
        """
        images_file, labels_file = self._files()[split]
        images, labels = read_idx(images_file), read_idx(labels_file)
        if images.ndim != 3 or images.shape[1:] != (28, 28) or not len(images):
            raise ValueError(f"{images_file}: holds {tuple(images.shape)}, not 28x28 pictures; remove or replace it")
        if labels.shape != images.shape[:1] or int(labels.max()) >= self.num_classes:
            raise ValueError(f"{labels_file}: needs {len(images)} labels from 0 to 9; remove or replace it")
        if self.resolution == 32:
            images = torch.nn.functional.pad(images, (2, 2, 2, 2))
        return Pictures(resized(images.unsqueeze(-1), self.resolution), labels.to(torch.int64))

    def _find_files(self) -> dict[Split, tuple[Path, Path]] | None:
        """The images' and the labels' file of each split, from the first folder that has all of them."""
        own = Path(self.data_dir)
        for folder in [EXCERPT] if self.excerpt else [own, own / "FashionMNIST" / "raw", DEBIAN]:
            found: dict[Split, tuple[Path, Path]] = {}
            for split in self.stored_splits():
                images = find_idx(folder, f"{FILE_PREFIX[split]}-images-idx3-ubyte")
                labels = find_idx(folder, f"{FILE_PREFIX[split]}-labels-idx1-ubyte")
                if images is not None and labels is not None:
                    found[split] = (images, labels)
            if len(found) == len(self.stored_splits()):
                return found
        return None

    def _files(self) -> dict[Split, tuple[Path, Path]]:
        files = self._find_files()
        if files is None:
            raise FileNotFoundError(self._how_to_get_it("the files are not there"))
        return files

    def _how_to_get_it(self, problem: str) -> str:
        return (
            f"Fashion-MNIST, data_dir {self.data_dir!r}: {problem}; put the four idx files there, install Debian's "
            "dataset-fashion-mnist, or set excerpt: true"
        )

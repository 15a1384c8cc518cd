"""Any folder of pictures, with or without sub-folders, classes and a test split."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from datamodules.base import Batch, Examples, PictureDataModule, Pictures, Split, at_least, one_line

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def find_pictures(folder: Path) -> list[Path]:
    """The pictures under a folder, through links, sorted by relative path; hidden files are left out."""
    found = [
        Path(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
    ]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def class_of_each(files: list[Path], folder: Path) -> Iterator[str]:
    """The first sub-folder of each file. Raises ValueError for a file in none."""
    for path in files:
        parts = path.relative_to(folder).parts
        if len(parts) < 2:
            raise ValueError(f"{path}: lies in no class folder; move it into one, or set classes: false")
        yield parts[0]


def upright(opened: Image.Image) -> Image.Image:
    """A picture turned as its EXIF entry says, with transparency laid over white.

    ValueError if it has more than eight bits per channel, which conversion would clip to white.
    """
    if opened.mode.startswith(("I", "F")):
        raise ValueError(f"has more than 8 bits per channel, mode {opened.mode}")
    picture: Image.Image = ImageOps.exif_transpose(opened)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture


@dataclass(frozen=True)
class Decoder:
    """Decodes a file to a square picture of side `resolution`, with 1 channel (grey) or 3 (RGB).

    The picture is made `upright`, its central square of side `crop`, in source pixels, is cropped (None: the largest),
    and resized with Pillow's Lanczos filter, which is antialiased and the sharpest of its filters. StyleGAN's dataset
    tool uses the same filter.
    """

    resolution: int
    crop: int | None
    channels: Literal[1, 3]

    def __call__(self, path: Path) -> np.ndarray:
        """Decodes a file to uint8 (resolution, resolution, channels).

        ValueError, with file and remedy, if it is broken, cut short, a decompression bomb, smaller than the crop, or
        has more than eight bits per channel.
        """
        try:
            with Image.open(path) as opened:
                picture = upright(opened).convert("L" if self.channels == 1 else "RGB")
                width, height = picture.size
                side = min(width, height) if self.crop is None else self.crop
                if side > min(width, height):
                    raise ValueError(f"{width}x{height} is smaller than crop {side}, which may be set lower")
                left, top = (width - side) // 2, (height - side) // 2
                picture = picture.crop((left, top, left + side, top + side))
                picture = picture.resize((self.resolution, self.resolution), Image.Resampling.LANCZOS)
                return np.asarray(picture).reshape(self.resolution, self.resolution, self.channels)
        # Decoders raise nearly anything for a broken file: OSError, SyntaxError, struct.error, DecompressionBombError …
        except Exception as error:
            problem = one_line(error).replace(f" {str(path)!r}", "")
            raise ValueError(f"{path}: cannot be used ({problem}); remove or replace it") from error


@dataclass(frozen=True, eq=False)
class PictureFiles:
    """A split that is decoded batch by batch: uint8 (n, height, width, channels) and int64 (n,) for n indices."""

    files: list[Path]
    labels: Tensor
    decode: Decoder

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, indices: Tensor) -> Batch:
        resolution, channels = self.decode.resolution, self.decode.channels
        images = np.empty((len(indices), resolution, resolution, channels), dtype=np.uint8)
        for row, index in enumerate(indices.tolist()):
            images[row] = self.decode(self.files[index])
        return torch.from_numpy(images), self.labels[indices]


def decode_all(source: PictureFiles, label: str, quiet: bool) -> Pictures:
    """Decodes a whole split into memory, on all cores, with a progress bar in a terminal unless `quiet`."""
    resolution, channels = source.decode.resolution, source.decode.channels
    images = np.empty((len(source), resolution, resolution, channels), dtype=np.uint8)

    def decode_row(row: int) -> None:
        images[row] = source.decode(source.files[row])

    with (
        ThreadPoolExecutor() as pool,  # Pillow releases the interpreter lock while it decodes and resizes
        tqdm(total=len(source), desc=label, unit="pictures", disable=True if quiet else None) as bar,
    ):
        for _ in pool.map(decode_row, range(len(source))):
            bar.update()
    return Pictures(torch.from_numpy(images), source.labels)


class ImageFolder(PictureDataModule):
    """The pictures under a folder, at any depth.

    Sub-folders `train` and `test`, if both exist, are the two splits; otherwise all pictures are for training.

    Args:
        data_dir: The folder.
        resolution: Height and width, in pixels.
        crop: Side of the central square that is kept before resizing, in source pixels; None keeps the largest.
        classes: The first sub-folder of a picture is its class; otherwise there are no labels.
        num_classes: The number of class folders. If it is given, the model can be built, and `info` answers, without
            the folder; None counts them.
        channels: 1 for grey, 3 for RGB; pictures are converted.
        in_memory: Decode everything once, at setup: resolution² × channels bytes per picture. Otherwise pictures are
            decoded for each batch, which needs workers, and a broken one shows only when it is reached.
        flip: Mirror half of the training pictures.
        batch_size: Of one discriminator step, over all ranks.
        seed: Of the order and of the flips.
        num_workers: Loading processes per rank; 0 is fastest with `in_memory`.
        train_limit: Train on this many pictures only; the others become the test split, if there is none.

    Raises:
        ValueError: A setting is out of range. `prepare_data`, and every method that reads the files, raises
            FileNotFoundError if `data_dir` is missing or holds no pictures, ValueError if a picture has no class.
    """

    loading_only: ClassVar[frozenset[str]] = PictureDataModule.loading_only | {"num_classes"}  # the files decide
    split_remedy: ClassVar[str] = "use split 'train', or sort the pictures into train/ and test/ under data_dir"

    def __init__(
        self,
        data_dir: str,
        resolution: int = 64,
        crop: int | None = None,
        classes: bool = False,
        num_classes: int | None = None,
        channels: Literal[1, 3] = 3,
        in_memory: bool = True,
        flip: bool = True,
        batch_size: int = 64,
        seed: int = 0,
        num_workers: int = 0,
        train_limit: int | None = None,
    ) -> None:
        if crop is not None:
            at_least("crop", crop, 1)
        if channels not in (1, 3):
            raise ValueError(f"channels: must be 1 (grey) or 3 (RGB), got {channels}")
        if num_classes is not None:
            at_least("num_classes", num_classes, 1)
            if not classes:
                raise ValueError(f"num_classes: {num_classes} class folders, but classes: false means no labels")
        super().__init__(resolution, channels, num_classes or 0, (), flip, batch_size, seed, num_workers, train_limit)
        self.data_dir = data_dir
        self.crop = crop
        self.classes = classes
        self.in_memory = in_memory
        self.channels = channels
        if classes and num_classes is None:
            self.num_classes = len(set(self._sources["train"].labels.tolist()))

    def prepare_data(self) -> None:
        """Lists the files, so that a problem with the folder shows before anything starts."""
        self._sources  # noqa: B018 - listed once, then kept

    @cached_property
    def _folders(self) -> dict[Split, Path]:
        root = Path(self.data_dir)
        if not root.is_dir():
            counted = ", or state data.num_classes" if self.classes and not self.num_classes else ""
            raise FileNotFoundError(
                f"data_dir: {self.data_dir!r} is not a folder; set it to a folder of pictures{counted}"
            )
        both = (root / "train").is_dir() and (root / "test").is_dir()
        return {"train": root / "train", "test": root / "test"} if both else {"train": root}

    @cached_property
    def _sources(self) -> dict[Split, PictureFiles]:
        """The files of each split and their labels. It sets the classes' names too."""
        files = {split: find_pictures(folder) for split, folder in self._folders.items()}
        for split, folder in self._folders.items():
            if not files[split]:
                kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
                raise FileNotFoundError(f"data_dir: no pictures under '{folder}'; needs files of type {kinds}")
        labels = {split: torch.zeros(len(paths), dtype=torch.int64) for split, paths in files.items()}
        if self.classes:
            of = {split: list(class_of_each(files[split], folder)) for split, folder in self._folders.items()}
            self.class_names = tuple(sorted(set(of["train"])))
            number = {name: label for label, name in enumerate(self.class_names)}
            if self.num_classes not in (0, len(number)):
                raise ValueError(
                    f"num_classes: {self.num_classes}, and {self._folders['train']} holds {len(number)} class folders; "
                    "state that number, or null to count them"
                )
            for split, found in of.items():
                for name, path in zip(found, files[split], strict=True):
                    if name not in number:
                        raise ValueError(f"{path}: class {name!r} is not under train/; remove it or add the class")
                labels[split] = torch.tensor([number[name] for name in found], dtype=torch.int64)
        decoder = Decoder(self.resolution, self.crop, self.channels)
        return {split: PictureFiles(files[split], labels[split], decoder) for split in self._folders}

    def stored_splits(self) -> tuple[Split, ...]:
        """Both if there are sub-folders train and test, otherwise "train"."""
        return tuple(self._folders)

    def identity(self) -> tuple[object, ...]:
        """Each file's relative path, size in bytes and modification time, the labels, and the crop."""
        return (
            self.crop,
            [
                (split, path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns)
                for split, folder in self._folders.items()
                for path in self._sources[split].files
            ],
            self.class_names,
        )

    def size(self, split: Split) -> int:
        """The number of pictures in a split, without decoding them."""
        self.require(split)
        if split == "test" and split not in self._sources:  # what `train_limit` leaves over
            return len(self._sources["train"]) - self.size("train")
        return self.train_limit if split == "train" and self.train_limit else len(self._sources[split])

    def load(self, split: Split) -> Examples:
        """The split, decoded if `in_memory`. Raises ValueError, naming the file, if one cannot be decoded."""
        source = self._sources[split]
        if not self.in_memory:
            return source
        quiet = self.trainer is not None and self.trainer.global_rank != 0
        return decode_all(source, f"Decoding {self._folders[split]}", quiet)

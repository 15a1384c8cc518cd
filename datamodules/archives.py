"""Finished pictures, read without changes: a folder, a zip or an npz of somebody's samples, or of references."""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.base import one_line
from datamodules.image_folder import SUFFIXES, find_pictures, upright

ARRAYS = ("samples", "images", "arr_0")
"""What an npz calls its pictures; the last is numpy's default name, which guided-diffusion's files use."""


@dataclass(frozen=True, eq=False)
class Archive:
    """Pictures of one size, neither resized nor cropped.

    `shape` is (C, H, W), with C 1 if the first picture is grey, else 3; `labels` int64 (N,), or None if there are none.
    `picture` gives one of them, uint8 (H, W, 1 or 3), at its own size; ValueError, naming it, if it cannot be read.
    """

    path: Path
    fingerprint: str
    shape: tuple[int, int, int]
    labels: Tensor | None
    count: int
    picture: Callable[[int], np.ndarray]

    def __len__(self) -> int:
        return self.count

    def pictures(self, indices: Sequence[int]) -> Tensor:
        """The pictures at these indices, uint8 (n, C, H, W).

        ValueError, naming the picture, if one is broken, or of another size than the first.
        """
        channels, height, width = self.shape
        batch = np.empty((len(indices), height, width, channels), dtype=np.uint8)

        def fill(row: int) -> None:
            picture = self.picture(indices[row])
            if picture.shape[:2] != (height, width):
                found = f"{picture.shape[1]}x{picture.shape[0]}"
                raise ValueError(
                    f"{self.path}: picture {indices[row]} is {found}, the first is {width}x{height}; "
                    "all pictures must have one size"
                )
            # A grey picture among colours gets its one channel three times. Colours are never made grey.
            if picture.shape[2] > channels:
                raise ValueError(f"{self.path}: picture {indices[row]} has colours, the first is grey; make all alike")
            batch[row] = picture

        with ThreadPoolExecutor() as pool:  # Pillow releases the interpreter lock while it decodes
            for _ in pool.map(fill, range(len(indices))):
                pass
        return torch.from_numpy(batch).permute(0, 3, 1, 2)


def open_archive(path: Path) -> Archive:
    """The pictures at `path`: a folder (searched recursively), a zip (StyleGAN's datasets among them), or an npz.

    Labels come from an npz's `labels` or `arr_1`, from a zip's `dataset.json`, or from the top sub-folders if every
    picture lies in one.

    Raises:
        FileNotFoundError: There is nothing at `path`, or no picture in it.
        ValueError: It is damaged, or holds something else; the message says what.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such folder, zip or npz of pictures")
    if path.is_dir():
        return _from_folder(path)
    if path.suffix == ".npz":
        return _from_npz(path)
    if zipfile.is_zipfile(path):
        return _from_zip(path)
    raise ValueError(f"{path}: neither a folder nor a zip nor an npz of pictures")


def _from_folder(path: Path) -> Archive:
    files = find_pictures(path)
    if not files:
        raise FileNotFoundError(f"{path}: no pictures under this folder ({', '.join(sorted(SUFFIXES))})")
    stats = [(file.relative_to(path).as_posix(), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    labels = _labels_by_folder([name for name, _, _ in stats])
    return _archive(path, stats, labels, len(files), lambda index: _decoded(files[index].read_bytes(), files[index]))


def _from_zip(path: Path) -> Archive:
    archive = zipfile.ZipFile(path)
    entries = sorted(
        (info for info in archive.infolist() if Path(info.filename).suffix.lower() in SUFFIXES),
        key=lambda info: info.filename,
    )
    if not entries:
        raise FileNotFoundError(f"{path}: no pictures in this zip ({', '.join(sorted(SUFFIXES))})")
    names = [info.filename for info in entries]
    labels = _labels_by_folder(names)
    if "dataset.json" in archive.namelist():
        # StyleGAN's format: {"labels": [[name, class], ...]}, or null for a dataset without labels. Its folders only
        # keep the number of files in each small.
        try:
            listed = json.loads(archive.read("dataset.json")).get("labels")
            labels = None if listed is None else torch.tensor([dict(listed)[name] for name in names])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: dataset.json does not label every picture ({one_line(error)})") from error

    def picture(index: int) -> np.ndarray:
        try:
            content = archive.read(names[index])
        except (OSError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path}: {names[index]} cannot be read ({one_line(error)})") from error
        return _decoded(content, path / names[index])

    return _archive(path, [(info.filename, info.CRC) for info in entries], labels, len(names), picture)


def _from_npz(path: Path) -> Archive:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            name = next((name for name in ARRAYS if name in arrays), None)
            if name is None:
                raise ValueError(f"it holds {', '.join(arrays.files)}, and none of {', '.join(ARRAYS)}")
            pictures = arrays[name]
            label_name = next((name for name in ("labels", "arr_1") if name in arrays), None)
            labels = None if label_name is None else torch.from_numpy(arrays[label_name].astype(np.int64))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not an npz of pictures ({one_line(error)})") from error
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[3] not in (1, 3) or not len(pictures):
        raise ValueError(
            f"{path}: {name} must be uint8 of shape (N, H, W, 1 or 3), as saved pictures are, "
            f"not {pictures.dtype} of {pictures.shape}"
        )
    if labels is not None and labels.shape != (len(pictures),):
        raise ValueError(f"{path}: {len(pictures)} pictures and labels of shape {tuple(labels.shape)}")
    digest = hashlib.sha256(pictures.tobytes()).hexdigest()
    return _archive(path, digest, labels, len(pictures), pictures.__getitem__)


def _archive(
    path: Path, identity: object, labels: Tensor | None, count: int, picture: Callable[[int], np.ndarray]
) -> Archive:
    height, width, channels = picture(0).shape
    known = None if labels is None else labels.tolist()
    fingerprint = hashlib.sha256(repr((identity, known)).encode()).hexdigest()
    return Archive(path, fingerprint, (channels, height, width), labels, count, picture)


def _labels_by_folder(names: list[str]) -> Tensor | None:
    folders = [name.rpartition("/")[0].split("/")[0] for name in names]
    if "" in folders or len(set(folders)) < 2:
        return None
    number = {folder: label for label, folder in enumerate(sorted(set(folders)))}
    return torch.tensor([number[folder] for folder in folders])


def _decoded(content: bytes, where: Path) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(content)) as opened:
            picture = upright(opened)
            grey = picture.mode in ("1", "L")
            pixels = np.asarray(picture.convert("L" if grey else "RGB"))
    # Decoders raise nearly anything for a broken file: OSError, SyntaxError, struct.error, DecompressionBombError …
    except Exception as error:
        raise ValueError(f"{where}: cannot be used ({one_line(error)}); remove or replace it") from error
    return pixels[:, :, None] if grey else pixels

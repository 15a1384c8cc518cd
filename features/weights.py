"""Published weights: files with known hashes, read from where they are or downloaded once."""

import hashlib
import io
import os
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor
from tqdm import tqdm

from media.files import write_whole

_PATIENCE_S = 30.0
_CHUNK_BYTES = 1 << 20


def weights_folder() -> Path:
    """The folder for downloaded weights: `atelier/weights` in $XDG_CACHE_HOME, or else in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "atelier" / "weights"


def read_weights(path: Path, sha256: str, remedy: str) -> dict[str, Tensor]:
    """The state dict in the file at `path`, on the CPU; only tensors are unpickled.

    FileNotFoundError if there is no such file, ValueError if its hash is another; both messages end in `remedy`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {remedy}")
    # Read once, so that the loaded bytes are the hashed ones.
    content = path.read_bytes()
    _check(str(path), hashlib.sha256(content).hexdigest(), sha256, remedy)
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def download(url: str, path: Path, sha256: str, remedy: str) -> None:
    """Downloads `url` to `path`, whole or not at all, with a progress bar in a terminal. Creates the folder.

    FileNotFoundError if the download fails or cannot be stored, ValueError if its hash is another; both messages end in
    `remedy`.
    """

    def write(file: BinaryIO) -> None:
        digest = hashlib.sha256()
        received = 0
        with urllib.request.urlopen(url, timeout=_PATIENCE_S) as answer:
            announced = int(answer.headers.get("Content-Length") or 0)
            with tqdm(total=announced or None, desc=path.name, unit="B", unit_scale=True, disable=None) as bar:
                while chunk := answer.read(_CHUNK_BYTES):
                    file.write(chunk)
                    digest.update(chunk)
                    received += len(chunk)
                    bar.update(len(chunk))
        # To `read`, a broken connection looks like the end of the file.
        if received < announced:
            raise ConnectionError(f"it ended after {received:,} of {announced:,} bytes")
        _check(url, digest.hexdigest(), sha256, remedy)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, write)
    except (OSError, HTTPException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileNotFoundError(f"{url} could not be downloaded ({reason}); {remedy}") from error


def _check(name: str, found: str, expected: str, remedy: str) -> None:
    if found != expected:
        raise ValueError(f"{name}: sha256 {found[:8]}…, expected {expected[:8]}…; {remedy}")

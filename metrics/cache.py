"""A cache folder for statistics of reference data: arrays under a key."""

import functools
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from filelock import FileLock

from media.files import write_json_whole, write_whole

_log = logging.getLogger(__name__)

Arrays = Mapping[str, np.ndarray]


def default_folder() -> Path:
    """The user's cache folder for statistics, which need not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "atelier" / "statistics"


def cached_arrays(folder: Path, key: str, compute: Callable[[], Arrays]) -> dict[str, np.ndarray]:
    """The arrays cached in `folder` under `key`, as read-only memory maps; if there are none, caches `compute()`.

    `key` must name everything that the arrays depend on: the data's fingerprint, split and count, and the extractor's
    protocol. An entry is a folder, `<sha256 of key>/`, with one .npy per array and entry.json, which holds the key and
    each file's sha256; everything is checked before it is used. A damaged or foreign entry is replaced, with a warning
    of one line. An entry appears whole or not at all. If several processes ask at once, one computes and the others
    wait. The folder is created if missing. Raises whatever `compute` raises, and OSError if the folder cannot be
    written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(key.encode()).hexdigest()
    with FileLock(folder / f"{name}.lock"):
        entry = folder / name
        if entry.exists():
            try:
                return _read(entry, key)
            except ValueError as error:
                _log.warning("Computing cached statistics again: %s", error)
                shutil.rmtree(entry)
        temporary = folder / f".{uuid.uuid4().hex}.tmp"
        try:
            _write(temporary, key, compute())
            temporary.replace(entry)
        except BaseException:  # Ctrl-C included
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        # Read back, so that the first figure equals later ones to the last bit.
        return _read(entry, key)


def _write(entry: Path, key: str, arrays: Arrays) -> None:
    entry.mkdir()
    for name, array in arrays.items():
        write_whole(entry / f"{name}.npy", functools.partial(np.save, arr=array, allow_pickle=False))
    hashes = {name: _sha256(entry / f"{name}.npy") for name in arrays}
    write_json_whole(entry / "entry.json", {"key": key, "sha256": hashes})


def _read(entry: Path, key: str) -> dict[str, np.ndarray]:
    """An entry's arrays. ValueError, naming the file, if it is damaged, cut short, or has another key."""
    try:
        described = json.loads((entry / "entry.json").read_text())
        found, hashes = described["key"], dict(described["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{entry / 'entry.json'}: damaged ({type(error).__name__})") from None
    if found != key:
        raise ValueError(f"{entry}: holds {found!r}, not {key!r}")
    arrays = {}
    for name, expected in hashes.items():
        path = entry / f"{name}.npy"
        try:
            if _sha256(path) != expected:
                raise ValueError(f"{path}: damaged, its hash is not the recorded one")
            arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, EOFError) as error:
            raise ValueError(f"{path}: cannot be read ({type(error).__name__})") from None
    return arrays


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

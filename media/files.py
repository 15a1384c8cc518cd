"""Files that are written whole or not at all; standard library only."""

import json
import math
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replaces the file at `path` with what `write` puts into the file object that it gets: whole, or not at all.

    After a kill or a power cut, and for other processes meanwhile, there is either the old file or the new one. The new
    file's permissions follow the umask, as with `open`; a link at `path` is itself replaced. A killed process leaves a
    `.*.tmp` behind, which nothing reads.

    Raises whatever `write` raises, and OSError (no such folder, disk full); `path` is then unchanged.
    """
    # In the same folder, because a rename is atomic only within one file system. The name is not derived from `path`'s,
    # which may already be as long as the file system allows.
    temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        # Not `tempfile`, whose files only their owner can read; "x" leaves the mode to the umask.
        with temporary.open("x+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:  # Ctrl-C included
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_text_whole(path: Path, text: str) -> None:
    """`write_whole` for text, as UTF-8 and with unchanged line ends."""
    content = text.encode()
    write_whole(path, lambda file: file.write(content))


def write_json_whole(path: Path, value: object) -> None:
    """`write_whole` for JSON: keys in their own order, two spaces of indentation, a final newline.

    NaN and infinities, which JSON lacks, become null. TypeError for other values that JSON cannot hold.
    """
    write_text_whole(path, json.dumps(without_nonfinite(value), indent=2, allow_nan=False) + "\n")


def without_nonfinite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: without_nonfinite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nonfinite(item) for item in value]
    return value


def _sync_folder(folder: Path) -> None:
    """Makes a rename inside `folder` survive a power cut."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Features on disk, for when they do not fit in memory."""

import tempfile
from pathlib import Path

import numpy as np
from torch import Tensor

from metrics.neighbours import NEIGHBOURS
from metrics.picture_set import drawn


class RowStore:
    """Features on disk, float32 (count, dimension): a memory map over an anonymous file, deleted with its last user.

    The file lies in `folder`, which is created if missing.
    """

    def __init__(self, count: int, dimension: int, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it lives as long as the map
        self.rows: np.ndarray = np.memmap(self._file, np.float32, "w+", shape=(count, dimension))

    def write(self, start: int, features: Tensor) -> None:
        """Stores features, float (n, dimension), as the rows from `start` on."""
        self.rows[start : start + len(features)] = features.detach().float().cpu().numpy()


def some_rows(rows: np.ndarray) -> np.ndarray:
    """The rows among which neighbours are searched: all, or `NEIGHBOURS` of them, drawn with a fixed seed."""
    return rows if len(rows) <= NEIGHBOURS else rows[drawn(len(rows), NEIGHBOURS)]

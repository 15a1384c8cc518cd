"""Features on disk, where there are too many for memory."""

import tempfile
from pathlib import Path

import numpy as np
from torch import Tensor

from metrics.neighbours import NEIGHBOURS
from metrics.picture_set import drawn


class RowStore:
    """Features on disk, float32 (count, dimension): a memory map over a file without a name, gone with its last user.

    Args:
        count: Rows.
        dimension: Of a row.
        folder: Where the file lies; made if missing.
    """

    def __init__(self, count: int, dimension: int, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it lives as long as the map
        self.rows: np.ndarray = np.memmap(self._file, np.float32, "w+", shape=(count, dimension))

    def write(self, start: int, features: Tensor) -> None:
        """Features float (n, dimension) as rows `start` and on."""
        self.rows[start : start + len(features)] = features.detach().float().cpu().numpy()


def some_rows(rows: np.ndarray) -> np.ndarray:
    """Rows that neighbours are sought among: all, or `NEIGHBOURS` of them, drawn with a fixed seed."""
    return rows if len(rows) <= NEIGHBOURS else rows[drawn(len(rows), NEIGHBOURS)]

"""Statistics of reference data, computed once and kept in a folder."""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

from metrics.frechet import GaussianStatistics

_log = logging.getLogger(__name__)


def cached_statistics(folder: Path, key: str, compute: Callable[[], GaussianStatistics]) -> GaussianStatistics:
    """The statistics kept in `folder` under `key`; where there are none, `compute()`, which is then kept.

    `key` must name all that the statistics depend on: the data's fingerprint, split and count, and the extractor's
    protocol. It is stored in the file, `<sha256 of key>.npz`, and checked. A damaged or foreign file is replaced, with
    one line of warning. Several processes may ask at once: each may compute, and the last to finish writes, whole.
    The folder is made if missing. Raises whatever `compute` raises, and OSError where the folder cannot be written.
    """
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()}.npz"
    try:
        return GaussianStatistics.load(path, key)
    except FileNotFoundError:
        pass
    except ValueError as error:
        _log.warning("Computing cached statistics anew: %s", error)
    folder.mkdir(parents=True, exist_ok=True)
    compute().save(path, key)
    # Read back, so that the first figure equals later ones to the last bit.
    return GaussianStatistics.load(path, key)

"""Statistics files as others publish them: an npz of `mu` and `sigma`, and perhaps more."""

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import torch

from features.extractors import Extractor
from metrics.frechet import GaussianStatistics
from metrics.real_statistics import GivenStatistics


def known_statistics(path: Path, extractor: Extractor) -> GivenStatistics | None:
    """The statistics in an npz, for an extractor's features; None if it holds no `mu` (but pictures, for instance).

    Atelier's files say which features and how many pictures they describe. Other files are trusted if the dimension is
    right. FileNotFoundError if there is no such file; ValueError, naming it, if it is damaged, or of other features.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file of statistics at {path}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if "mu" not in arrays:
                return None
            mean = np.asarray(arrays["mu"], dtype=np.float64)
            covariance = np.asarray(arrays["sigma"], dtype=np.float64)
            count = int(arrays["count"]) if "count" in arrays else 0
            key = str(arrays["key"]) if "key" in arrays else ""
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not an npz of mu and sigma ({error})") from None
    dimension = extractor.dimension
    if mean.shape != (dimension,) or covariance.shape != (dimension, dimension):
        raise ValueError(
            f"{path}: mu of shape {mean.shape} and sigma of {covariance.shape} are not those of {extractor.name}, "
            f"which has {dimension} features"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(f"{path}: holds NaN or infinity")
    theirs = _protocol(key)
    differing = [
        f"{name} {theirs[name]}" for name, value in extractor.protocol().items() if theirs.get(name, value) != value
    ]
    if differing:
        raise ValueError(f"{path}: was computed with {', '.join(differing)}; measure with the same, or compute it anew")
    # Of an unknown number of pictures nothing is assumed but that they suffice for a covariance of full rank.
    assumed = count or dimension + 1
    gaussian = GaussianStatistics(assumed, torch.from_numpy(mean), torch.from_numpy(covariance) * (assumed - 1))
    return GivenStatistics(gaussian, count, hashlib.sha256(mean.tobytes() + covariance.tobytes()).hexdigest())


def _protocol(key: str) -> dict[str, object]:
    try:
        found = json.loads(key)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}

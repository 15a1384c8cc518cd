"""Statistics files are read as others publish them, and what is none is named."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from metrics.frechet import GaussianStatistics
from metrics.statistics import known_statistics


class Three:
    """An extractor of three features; nothing is extracted here."""

    name = "Three"
    dimension = 3
    num_logits = 0

    def __call__(self, pictures: Tensor) -> Tensor:
        raise AssertionError

    def logits(self, features: Tensor) -> Tensor:
        raise AssertionError

    def protocol(self) -> dict[str, str | int]:
        return {"extractor": "Three", "resolution": 32}

    def to(self, device: torch.device) -> "Three":
        return self


@pytest.fixture
def gaussian() -> GaussianStatistics:
    statistics = GaussianStatistics.empty(3)
    statistics.update(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)))
    return statistics


def test_our_own_file_comes_back_with_its_count(gaussian: GaussianStatistics, tmp_path: Path) -> None:
    gaussian.save(tmp_path / "a.npz", key=json.dumps({"extractor": "Three", "data": "é"}))
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"mu", "sigma", "count", "key"}
    known = known_statistics(tmp_path / "a.npz", Three())
    assert known is not None
    assert known.count == known.gaussian.count == 20
    assert torch.equal(known.gaussian.mean, gaussian.mean)
    torch.testing.assert_close(known.gaussian.scatter, gaussian.scatter, rtol=1e-14, atol=0)


def test_anothers_file_is_of_an_unknown_number_of_pictures(gaussian: GaussianStatistics, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", mu=gaussian.mean.numpy(), sigma=gaussian.covariance().numpy(), more=np.zeros(2))
    known = known_statistics(tmp_path / "a.npz", Three())
    assert known is not None
    assert known.count == 0
    torch.testing.assert_close(known.gaussian.covariance(), gaussian.covariance(), rtol=1e-14, atol=0)


def test_an_npz_of_pictures_holds_no_statistics(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", samples=np.zeros((2, 4, 4, 3), dtype=np.uint8))
    assert known_statistics(tmp_path / "a.npz", Three()) is None


def test_files_that_are_not_its_statistics_are_named(gaussian: GaussianStatistics, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    gaussian.save(path, key=json.dumps({"extractor": "Three", "resolution": 64}))
    with pytest.raises(ValueError, match=r"a\.npz: was computed with resolution 64"):
        known_statistics(path, Three())
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 0xFF
    for content in (b"", b"not a zip", good[: len(good) // 2], bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.npz"):
            known_statistics(path, Three())
    np.savez(path, mu=np.zeros(3))
    with pytest.raises(ValueError, match=r"a\.npz: not an npz of mu and sigma .*sigma"):
        known_statistics(path, Three())
    np.savez(path, mu=np.zeros(3), sigma=np.eye(4))
    with pytest.raises(ValueError, match="are not those of Three, which has 3 features"):
        known_statistics(path, Three())
    np.savez(path, mu=np.zeros(3), sigma=np.full((3, 3), np.nan))
    with pytest.raises(ValueError, match="NaN"):
        known_statistics(path, Three())
    with pytest.raises(FileNotFoundError):
        known_statistics(tmp_path / "none.npz", Three())

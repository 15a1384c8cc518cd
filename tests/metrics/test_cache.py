import hashlib
import logging
from pathlib import Path

import pytest
import torch

from metrics.cache import cached_statistics
from metrics.frechet import GaussianStatistics, frechet_distance


class Computation:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> GaussianStatistics:
        self.calls += 1
        statistics = GaussianStatistics.empty(5)
        statistics.update(torch.randn(50, 5, generator=torch.Generator().manual_seed(0)))
        return statistics


def path_of(folder: Path, key: str) -> Path:
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()}.npz"


def test_computes_once_a_key_and_returns_the_same_bits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    compute = Computation()
    folder = tmp_path / "new" / "cache"
    first = cached_statistics(folder, "train/50", compute)
    second = cached_statistics(folder, "train/50", compute)
    assert compute.calls == 1
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(first.scatter, second.scatter)
    assert frechet_distance(first, compute()) < 1e-12
    cached_statistics(folder, "test/50", compute)
    assert compute.calls == 3
    assert set(folder.iterdir()) == {path_of(folder, "train/50"), path_of(folder, "test/50")}
    assert not caplog.records


@pytest.mark.parametrize("damage", ["empty", "cut", "foreign"])
def test_a_damaged_or_foreign_file_is_replaced_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    compute = Computation()
    cached_statistics(tmp_path, "key", compute)
    path = path_of(tmp_path, "key")
    if damage == "foreign":
        compute().save(path, key="another key")
    else:
        path.write_bytes(b"" if damage == "empty" else path.read_bytes()[:-100])
    calls = compute.calls
    with caplog.at_level(logging.WARNING):
        cached_statistics(tmp_path, "key", compute)
        cached_statistics(tmp_path, "key", compute)
    assert compute.calls == calls + 1
    assert [record.name for record in caplog.records] == ["metrics.cache"]
    assert "\n" not in caplog.text.strip()
    assert path.name in caplog.text


def test_a_failing_computation_leaves_nothing(tmp_path: Path) -> None:
    def compute() -> GaussianStatistics:
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        cached_statistics(tmp_path, "key", compute)
    assert not list(tmp_path.iterdir())

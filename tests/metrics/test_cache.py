import logging
import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest

from metrics.cache import cached_arrays


class Computation:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, np.ndarray]:
        self.calls += 1
        rows = np.random.RandomState(0).rand(50, 5).astype(np.float32)
        return {"rows": rows, "count": np.array(50)}


def entries(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()]


def test_computes_once_a_key_and_returns_the_same_bits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    compute = Computation()
    folder = tmp_path / "new" / "cache"
    first = cached_arrays(folder, "train/50", compute)
    second = cached_arrays(folder, "train/50", compute)
    assert compute.calls == 1
    assert sorted(first) == ["count", "rows"]
    assert int(first["count"]) == 50
    for name, array in compute().items():
        assert np.array_equal(first[name], array)
        assert np.array_equal(second[name], array)
    cached_arrays(folder, "test/50", compute)
    assert compute.calls == 3
    assert len(entries(folder)) == 2
    assert not [record for record in caplog.records if record.name.startswith("metrics.")]


def test_large_arrays_stay_on_disk_and_are_not_written_to(tmp_path: Path) -> None:
    rows = cached_arrays(tmp_path, "key", Computation())["rows"]
    assert isinstance(rows, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        rows[0] = 1


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "missing", "no entry", "foreign"])
def test_a_damaged_or_foreign_entry_is_replaced_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    compute = Computation()
    cached_arrays(tmp_path, "key", compute)
    (entry,) = entries(tmp_path)
    file = entry / "rows.npy"
    content = file.read_bytes()
    if damage == "empty":
        file.write_bytes(b"")
    elif damage == "cut":
        file.write_bytes(content[:-100])
    elif damage == "flipped":  # one bit of one number: still an array of the right shape
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "missing":
        file.unlink()
    elif damage == "no entry":
        (entry / "entry.json").unlink()
    else:
        text = (entry / "entry.json").read_text()
        (entry / "entry.json").write_text(text.replace('"key": "key"', '"key": "another"'))
    with caplog.at_level(logging.WARNING):
        found = cached_arrays(tmp_path, "key", compute)
        cached_arrays(tmp_path, "key", compute)
    assert compute.calls == 2
    assert np.array_equal(found["rows"], compute()["rows"])
    assert [record.name for record in caplog.records if record.name.startswith("metrics.")] == ["metrics.cache"]
    assert "\n" not in caplog.records[0].getMessage()
    assert entry.name in caplog.text


def test_a_failing_computation_leaves_nothing(tmp_path: Path) -> None:
    def compute() -> dict[str, np.ndarray]:
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        cached_arrays(tmp_path, "key", compute)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]


def _compute_slowly() -> dict[str, np.ndarray]:
    time.sleep(0.3)
    return {"when": np.array(time.time_ns())}


def _ask(folder: Path, answers: "multiprocessing.Queue[int]") -> None:
    answers.put(int(cached_arrays(folder, "key", _compute_slowly)["when"]))


def test_of_several_processes_that_ask_at_once_one_computes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [context.Process(target=_ask, args=(tmp_path, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    found = {answers.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(found) == 1

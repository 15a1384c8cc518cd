"""CIFAR-10: the official batches, and nothing else."""

import pickle
import shutil
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torchvision.datasets import cifar

from datamodules.cifar10 import CIFAR10

Official = cifar.CIFAR10


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_settings: object) -> None:
        raise URLError("Name or service\nnot known")

    monkeypatch.setattr(cifar, "download_and_extract_archive", fail)


def test_the_official_batches(shared_data: Path) -> None:
    data = CIFAR10(str(shared_data))
    data.prepare_data()
    data.setup("fit")
    assert (data.train_size, data.size("test"), data.data_shape) == (50_000, 10_000, (3, 32, 32))
    x, y = data.examples("train", range(10))
    official = Official(str(shared_data))
    assert data.class_names == tuple(official.classes)
    assert y.tolist() == official.targets[:10]
    pixels = ((x + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    assert torch.equal(pixels, torch.from_numpy(official.data[:10]))


def test_missing_batches_are_one_line_with_a_remedy(tmp_path: Path, offline: None) -> None:
    data = CIFAR10(str(tmp_path))
    for attempt in (data.prepare_data, lambda: data.setup("fit")):
        with pytest.raises(FileNotFoundError) as missing:
            attempt()
        line = str(missing.value)
        assert "\n" not in line
        assert str(tmp_path / "cifar-10-batches-py") in line
        assert "cifar-10-python.tar.gz" in line


def test_a_foreign_pickle_is_never_opened(tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files with the right names but other bytes: no call of pickle.load may happen."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name, _ in [*Official.train_list, *Official.test_list]:
        (folder / name).write_bytes(pickle.dumps({"data": [], "labels": []}))
    monkeypatch.setattr(cifar.pickle, "load", lambda *_args, **_settings: pytest.fail("a pickle was opened"))
    with pytest.raises(FileNotFoundError, match="missing or corrupt"):
        CIFAR10(str(tmp_path)).setup("fit")


def test_one_damaged_batch_is_refused(shared_data: Path, tmp_path: Path) -> None:
    shutil.copytree(shared_data / "cifar-10-batches-py", tmp_path / "cifar-10-batches-py")
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    damaged = bytearray(batch.read_bytes())
    damaged[1000] ^= 1
    batch.write_bytes(damaged)
    with pytest.raises(FileNotFoundError, match="cifar-10-batches-py: missing or corrupt"):
        CIFAR10(str(tmp_path)).size("test")


def test_the_fingerprint_changes_with_the_resolution_only(shared_data: Path) -> None:
    def fingerprint(data: CIFAR10) -> str:
        data.setup("validate")
        return data.fingerprint

    same = fingerprint(CIFAR10(str(shared_data)))
    assert fingerprint(CIFAR10(str(shared_data), flip=False, batch_size=8, seed=2, num_workers=1)) == same
    assert fingerprint(CIFAR10(str(shared_data), resolution=64)) != same

"""Fashion-MNIST: where it is found, the idx format, the excerpt."""

import gzip
import hashlib
import struct
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
import yaml

from datamodules import fashion_mnist
from datamodules.fashion_mnist import FashionMNIST, read_idx
from main import main
from tests.commands.conftest import CONFIG, only_run, record


def idx(shape: tuple[int, ...], values: bytes) -> bytes:
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + values


def write(folder: Path, level: int, zipped: bool = True, count: int = 3) -> Path:
    """Four files of `count` pictures, all pixels `level`."""
    folder.mkdir(parents=True, exist_ok=True)
    for prefix in ("train", "t10k"):
        for name, data in [
            ("images-idx3-ubyte", idx((count, 28, 28), bytes([level]) * (count * 784))),
            ("labels-idx1-ubyte", idx((count,), bytes(i % 10 for i in range(count)))),
        ]:
            path = folder / f"{prefix}-{name}{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(data) if zipped else data)
    return folder


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No Debian package and no network; gives the place of the package."""

    def fail(*_args: object, **_settings: object) -> None:
        raise URLError("Name or service\nnot known")

    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fail)
    return tmp_path / "debian"


def level(data: FashionMNIST) -> int:
    data.prepare_data()
    data.setup("fit")
    return int(((data.examples("train", [0])[0][0, 0, 16, 16] + 1) * 127.5).round())


def test_idx_of_any_shape(tmp_path: Path) -> None:
    path = tmp_path / "values"
    path.write_bytes(idx((2, 3), bytes(range(6))))
    assert read_idx(path).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\x00\x08",
        idx((2, 3), bytes(5)),
        idx((2, 3), bytes(7)),
        b"\x00\x00\x0d\x01" + bytes(8),
        idx((2, 3), b"")[:8],
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_corrupt_idx_file_is_named(data: bytes, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / ("bad.gz" if zipped else "bad")
    path.write_bytes(gzip.compress(data) if zipped else data)
    with pytest.raises(ValueError, match=r"/bad(\.gz)?: .*; remove or replace it$"):
        read_idx(path)


def test_a_corrupt_gzip_file_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(idx((100, 28, 28), torch.randint(256, (78400,)).to(torch.uint8).numpy().tobytes()))
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 255
    for data in (whole[: len(whole) // 2], b"not gzip", bytes(damaged)):
        (tmp_path / "bad.gz").write_bytes(data)
        with pytest.raises(ValueError, match=r"/bad\.gz: cannot be read \(.*\); remove or replace it$"):
            read_idx(tmp_path / "bad.gz")


def test_where_the_files_are_looked_for(tmp_path: Path, offline: Path) -> None:
    home = tmp_path / "data"
    with pytest.raises(FileNotFoundError) as missing:
        level(FashionMNIST(str(home), excerpt=False))
    line = str(missing.value)
    assert "\n" not in line
    for part in (str(home), "download failed", "dataset-fashion-mnist", "excerpt: true"):
        assert part in line
    with pytest.raises(FileNotFoundError, match="excerpt: true"):
        FashionMNIST(str(home), excerpt=False).setup("fit")

    write(offline, 10)
    assert level(FashionMNIST(str(home))) == 10
    write(home / "FashionMNIST" / "raw", 20, zipped=False)
    assert level(FashionMNIST(str(home))) == 20
    write(home, 30)
    assert level(FashionMNIST(str(home))) == 30
    (home / "t10k-labels-idx1-ubyte.gz").unlink()  # a folder counts only with all four files
    assert level(FashionMNIST(str(home))) == 20


def test_a_download_lands_in_data_dir(tmp_path: Path, offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(root: str, download: bool) -> None:
        assert download
        write(Path(root) / "FashionMNIST" / "raw", 40, zipped=False)

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", download)
    assert level(FashionMNIST(str(tmp_path / "new"), excerpt=False)) == 40


def test_pictures_and_labels_that_do_not_fit_are_named(tmp_path: Path, offline: Path) -> None:
    for name, data, line in [
        ("train-images-idx3-ubyte.gz", idx((3, 2, 2), bytes(12)), "train-images.*not 28x28 pictures"),
        ("train-labels-idx1-ubyte.gz", idx((2,), bytes(2)), "train-labels.*needs 3 labels from 0 to 9"),
        ("train-labels-idx1-ubyte.gz", idx((3,), bytes([1, 2, 10])), "train-labels.*needs 3 labels from 0 to 9"),
    ]:
        write(tmp_path, 10)
        (tmp_path / name).write_bytes(gzip.compress(data))
        with pytest.raises(ValueError, match=line):
            FashionMNIST(str(tmp_path)).setup("fit")


def test_the_fingerprint_is_of_content_and_resolution(tmp_path: Path, offline: Path) -> None:
    def fingerprint(data: FashionMNIST) -> str:
        data.setup("validate")
        return data.fingerprint

    same = fingerprint(FashionMNIST(str(write(tmp_path / "a", 10))))
    assert fingerprint(FashionMNIST(str(write(tmp_path / "b", 10, zipped=False)), flip=True, seed=3)) == same
    assert fingerprint(FashionMNIST(str(tmp_path / "a"), resolution=28)) != same
    assert fingerprint(FashionMNIST(str(write(tmp_path / "c", 11)))) != same
    assert fingerprint(FashionMNIST(str(tmp_path / "a"), excerpt=True)) != same


def test_the_excerpt_needs_no_network_and_is_whole(tmp_path: Path, offline: Path) -> None:
    data = FashionMNIST(str(tmp_path), resolution=28, excerpt=True)
    data.prepare_data()
    data.setup("fit")
    assert (data.train_size, data.data_shape, data.num_classes) == (10_000, (1, 28, 28), 10)
    x, y = data.examples("train", range(10_000))
    assert torch.bincount(y).tolist() == [942, 1027, 1016, 1019, 974, 989, 1021, 1022, 990, 1000]
    assert [data.class_names[label] for label in y[:4]] == ["Ankle boot", "T-shirt/top", "T-shirt/top", "Dress"]
    pixels = ((x + 1) * 127.5).round().to(torch.uint8).contiguous()
    content = hashlib.sha256(b"\x00\x00\x08\x03" + struct.pack(">3I", 10_000, 28, 28) + pixels.numpy().tobytes())
    readme = (fashion_mnist.EXCERPT / "README.md").read_text()
    assert content.hexdigest() in readme
    files = sorted(fashion_mnist.EXCERPT.glob("*.gz"))
    assert len(files) == 2
    for file in files:
        assert hashlib.sha256(file.read_bytes()).hexdigest() in readme
    assert sum(file.stat().st_size for file in files) < 5_000_000


def test_the_excerpt_has_no_test_split(offline: Path) -> None:
    data = FashionMNIST(excerpt=True)
    with pytest.raises(ValueError, match=r"no split 'test' here: the excerpt .* set excerpt: false"):
        data.examples("test", [0])
    assert len(list(data.val_dataloader())) == -(-10_000 // 64)


def test_a_limit_holds_the_rest_of_the_excerpt_back_for_a_test(offline: Path) -> None:
    data, whole = FashionMNIST(excerpt=True, train_limit=1000), FashionMNIST(excerpt=True)
    assert (data.size("train"), data.size("test")) == (1000, 9000)
    both = torch.cat([data.examples("train", range(1000))[0], data.examples("test", range(9000))[0]])
    assert both.flatten(1).double().sum() == whole.examples("train", range(10_000))[0].flatten(1).double().sum()


def test_padding_keeps_every_pixel_and_other_sizes_are_resampled() -> None:
    native, padded, large = (
        FashionMNIST(resolution=r, excerpt=True).examples("train", range(8))[0] for r in (28, 32, 64)
    )
    assert torch.equal(padded[:, :, 2:30, 2:30], native)
    padded[:, :, 2:30, 2:30] = -1
    assert (padded == -1).all()
    assert large.shape == (8, 1, 64, 64)
    assert (large.mean((1, 2, 3)) - native.mean((1, 2, 3))).abs().max() < 0.02


def test_left_open_it_is_the_files_that_are_found_else_the_excerpt(tmp_path: Path, offline: Path) -> None:
    none_found = FashionMNIST(str(tmp_path))
    write(tmp_path, 10)
    found = FashionMNIST(str(tmp_path))
    for data, excerpt, size in ((none_found, True, 10_000), (found, False, 3)):
        data.prepare_data()
        data.setup("fit")
        assert (data.excerpt, data.train_size) == (excerpt, size)
        assert data.settings()["init_args"]["excerpt"] is excerpt
        assert "\n" not in data.note
    assert "10,000 pictures, none held out; for all 60,000: --data.excerpt false" in none_found.note
    assert str(tmp_path) in found.note
    assert found.fingerprint != none_found.fingerprint
    assert "none held out" not in FashionMNIST(excerpt=True, train_limit=9000).note


def test_a_run_goes_on_with_the_data_that_it_began_with(
    tmp_path: Path, offline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(CONFIG.format(root=tmp_path / "runs", cache=tmp_path / "cache"))
    settings = {"data_dir": str(tmp_path), "resolution": 16, "batch_size": 8}
    data = {"class_path": "datamodules.fashion_mnist.FashionMNIST", "init_args": settings}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(data))
    fit = ["fit", "--config", str(config), f"--data={tmp_path / 'data.yaml'}", "--quality.reference_samples=16"]

    assert main([*fit, "--budget.kimg=0.008"]) == 0
    err = capsys.readouterr().err
    assert err.count("the bundled 10,000 pictures") == 1
    assert err.index("the bundled 10,000 pictures") < err.index("kimg [")  # in the plan, before the first batch
    folder = only_run(config)
    kept = yaml.safe_load((folder / "config.yaml").read_text())["data"]["init_args"]
    assert (kept["excerpt"], kept["train_limit"]) == (True, None)
    began_with = record(folder)["data"]["fingerprint"]

    write(tmp_path, 10, count=50)
    resumed = ["--ckpt_path=last", "--budget.kimg=0.016"]
    assert main([*fit, *resumed]) == 2
    line = capsys.readouterr().err.strip()
    assert "data.excerpt: True -> False" in line
    assert line.endswith("keep its data with --data.excerpt true")
    assert "\n" not in line
    assert main(["fit", "--config", str(folder / "config.yaml"), "--run.name=small", *resumed]) == 0
    assert main([*fit, *resumed, "--data.excerpt=true", "--budget.kimg=0.024"]) == 0
    assert (record(folder)["samples_seen"], record(folder)["data"]["fingerprint"]) == (24, began_with)


@pytest.mark.skipif(not fashion_mnist.DEBIAN.is_dir(), reason="optional data: Debian's dataset-fashion-mnist")
def test_debians_package_starts_with_the_excerpt(tmp_path: Path) -> None:
    data = FashionMNIST(str(tmp_path))
    assert (data.size("train"), data.size("test")) == (60_000, 10_000)
    x, y = data.examples("train", range(100))
    same_x, same_y = FashionMNIST(excerpt=True).examples("train", range(100))
    assert torch.equal(x, same_x)
    assert torch.equal(y, same_y)

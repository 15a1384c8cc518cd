"""Folders of pictures: what is found, how it is decoded, what is refused."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from datamodules.image_folder import Decoder, ImageFolder


def save(path: Path, colour: tuple[int, ...] | int = (200, 100, 50), size: tuple[int, int] = (12, 12)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB" if isinstance(colour, tuple) and len(colour) == 3 else "L", size, colour).save(path)
    return path


def colours(data: ImageFolder) -> list[tuple[int, ...]]:
    """The middle pixel of every training picture."""
    x, _ = data.examples("train", range(data.train_size))
    half = data.resolution // 2
    return [tuple(pixel) for pixel in ((x[:, :, half, half] + 1) * 127.5).round().int().tolist()]


def to_uint8(x: Tensor) -> Tensor:
    return ((x + 1) * 127.5).round().to(torch.uint8)


def test_pictures_are_found_at_any_depth_in_order(tmp_path: Path) -> None:
    save(tmp_path / "b.png", (1, 1, 1))
    save(tmp_path / "a" / "deep" / "x.PNG", (2, 2, 2))
    save(tmp_path / "c.bmp", (3, 3, 3))
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "._b.png").write_bytes(b"a Finder's leavings")
    data = ImageFolder(str(tmp_path), resolution=8)
    assert (data.data_shape, data.num_classes, data.class_names, data.train_size) == ((3, 8, 8), 0, (), 3)
    assert colours(data) == [(2, 2, 2), (1, 1, 1), (3, 3, 3)]
    assert data.examples("train", [0, 1])[1].tolist() == [0, 0]


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_limit_holds_the_rest_back_for_a_test(in_memory: bool, tmp_path: Path) -> None:
    for i in range(7):
        save(tmp_path / f"{i}.png", (i, i, i))
    data = ImageFolder(str(tmp_path), resolution=8, in_memory=in_memory, train_limit=4)
    assert (data.splits(), data.size("train"), data.size("test")) == (("train", "test"), 4, 3)
    shown = [to_uint8(data.examples(split, range(data.size(split)))[0])[:, 0, 4, 4] for split in ("train", "test")]
    assert sorted(torch.cat(shown).tolist()) == list(range(7))
    with pytest.raises(ValueError, match="train_limit: must be below the 7 training pictures"):
        ImageFolder(str(tmp_path), resolution=8, train_limit=7).examples("train", [0])


@pytest.mark.parametrize("in_memory", [True, False])
def test_modes_are_converted(in_memory: bool, tmp_path: Path) -> None:
    Image.new("L", (12, 12), 90).save(tmp_path / "1_grey.png")
    Image.new("RGBA", (12, 12), (10, 20, 30, 255)).save(tmp_path / "2_opaque.png")
    Image.new("RGBA", (12, 12), (10, 20, 30, 0)).save(tmp_path / "3_clear.png")
    Image.new("RGB", (12, 12), (7, 8, 9)).quantize(4).save(tmp_path / "4_palette.png")
    palette = Image.new("P", (12, 12), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.save(tmp_path / "5_clear_palette.png", transparency=1)
    data = ImageFolder(str(tmp_path), resolution=8, in_memory=in_memory)
    assert colours(data) == [(90, 90, 90), (10, 20, 30), (255, 255, 255), (7, 8, 9), (255, 255, 255)]
    grey = ImageFolder(str(tmp_path), resolution=8, channels=1, in_memory=in_memory)
    assert grey.data_shape == (1, 8, 8)
    assert colours(grey)[0] == (90,)


def test_memory_and_files_give_the_same_in_workers_too(tmp_path: Path) -> None:
    for i in range(7):
        save(tmp_path / f"{i}.png", (i, 2 * i, 3 * i))
    kept = ImageFolder(str(tmp_path), resolution=8, batch_size=4)
    read = ImageFolder(str(tmp_path), resolution=8, batch_size=4, in_memory=False, num_workers=1)
    kept.setup("fit")
    read.setup("fit")
    assert kept.fingerprint == read.fingerprint
    for (x, y), (same_x, same_y) in zip(kept.val_dataloader(), read.val_dataloader(), strict=True):
        assert torch.equal(x, same_x)
        assert torch.equal(y, same_y)


def test_classes_are_the_first_folders(tmp_path: Path) -> None:
    for name, colour in [("dog/1.png", 1), ("cat/2.png", 2), ("cat/young/3.png", 3)]:
        save(tmp_path / name, (colour, 0, 0))
    data = ImageFolder(str(tmp_path), resolution=8, classes=True)
    assert (data.num_classes, data.class_names) == (2, ("cat", "dog"))
    assert data.examples("train", [0, 1, 2])[1].tolist() == [0, 0, 1]
    save(tmp_path / "stray.png")
    with pytest.raises(ValueError, match=r"stray\.png: lies in no class folder; .* classes: false"):
        ImageFolder(str(tmp_path), classes=True)


def test_train_and_test_folders_are_splits(tmp_path: Path) -> None:
    save(tmp_path / "train" / "cat" / "1.png")
    save(tmp_path / "train" / "dog" / "2.png")
    with pytest.raises(ValueError, match=r"no split 'test' here: .*train/ and test/"):
        ImageFolder(str(tmp_path)).examples("test", [0])
    save(tmp_path / "test" / "dog" / "3.png")
    data = ImageFolder(str(tmp_path), resolution=8, classes=True)
    assert (data.size("train"), data.size("test"), data.class_names) == (2, 1, ("cat", "dog"))
    assert data.examples("test", [0])[1].tolist() == [1]
    save(tmp_path / "test" / "cow" / "4.png")
    with pytest.raises(ValueError, match=r"4\.png: class 'cow' is not under train/"):
        ImageFolder(str(tmp_path), classes=True)


def test_the_crop_is_central_and_native_pixels_survive(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    x, _ = ImageFolder(str(tmp_path), resolution=10, crop=10).examples("train", [0])
    assert torch.equal(to_uint8(x)[0].permute(1, 2, 0), torch.from_numpy(pixels[5:15, 10:20]))
    x, _ = ImageFolder(str(tmp_path), resolution=20).examples("train", [0])
    assert torch.equal(to_uint8(x)[0].permute(1, 2, 0), torch.from_numpy(pixels[:, 5:25]))


def test_resizing_is_antialiased(tmp_path: Path) -> None:
    board = ((np.indices((64, 64)).sum(0) % 2) * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "a.png")
    x, _ = ImageFolder(str(tmp_path), resolution=8).examples("train", [0])
    assert x[:, :, 1:-1, 1:-1].abs().max() < 0.05


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    pixels = np.zeros((12, 12, 3), dtype=np.uint8)
    pixels[:6] = 255  # white above; orientation 3 says that the picture stands on its head
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    x, _ = ImageFolder(str(tmp_path), resolution=12).examples("train", [0])
    assert (x[0, 0, 0, 0].item(), x[0, 0, -1, 0].item()) == (-1, 1)


def test_missing_and_empty_folders_are_named_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^data_dir: '.*nowhere' is not a folder; .* of pictures$"):
        ImageFolder(str(tmp_path / "nowhere")).prepare_data()
    with pytest.raises(FileNotFoundError, match=r"^data_dir: '.*nowhere' is not a folder; .*or state data.num_classes"):
        ImageFolder(str(tmp_path / "nowhere"), classes=True)
    with pytest.raises(FileNotFoundError, match=r"^data_dir: no pictures under .* needs files of type bmp, jpeg"):
        ImageFolder(str(tmp_path)).prepare_data()
    save(tmp_path / "train" / "1.png")
    (tmp_path / "test").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no pictures under '.*test'"):
        ImageFolder(str(tmp_path)).prepare_data()


def test_shape_and_stated_classes_are_known_without_the_folder(tmp_path: Path) -> None:
    stated = ImageFolder(str(tmp_path), resolution=8, classes=True, num_classes=2)
    assert (stated.data_shape, stated.num_classes) == ((3, 8, 8), 2)
    save(tmp_path / "cat" / "1.png")
    with pytest.raises(ValueError, match=r"^num_classes: 2, and .* holds 1 class folders; state that number"):
        stated.prepare_data()
    save(tmp_path / "dog" / "2.png")
    counted = ImageFolder(str(tmp_path), resolution=8, classes=True)
    stated = ImageFolder(str(tmp_path), resolution=8, classes=True, num_classes=2)
    for data in (counted, stated):
        data.setup()
    assert (stated.class_names, stated.fingerprint) == (("cat", "dog"), counted.fingerprint)
    assert stated.settings() == counted.settings()
    with pytest.raises(ValueError, match="num_classes: 2 class folders, but classes: false"):
        ImageFolder(str(tmp_path), num_classes=2)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"resolution": 0}, "resolution: must be at least 1"),
        ({"crop": 0}, "crop: must be at least 1"),
        ({"channels": 2}, "channels: must be 1"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, int], line: str, tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=line):
        ImageFolder(str(tmp_path), **settings)  # type: ignore[arg-type]


def truncated(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:4000])


def too_small(path: Path) -> None:
    save(path, size=(9, 30))


def deep(path: Path) -> None:
    Image.fromarray(np.full((12, 12), 40_000, dtype=np.uint16)).save(path)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: path.write_bytes(b""), "cannot identify image file"),
        (lambda path: path.write_bytes(b"<html>not found</html>"), "cannot identify image file"),
        (truncated, "truncated"),
        (too_small, "9x30 is smaller than crop 10"),
        (deep, "more than 8 bits per channel"),
    ],
)
def test_a_bad_picture_is_named_before_the_first_batch(spoil: object, why: str, tmp_path: Path) -> None:
    for i in range(5):
        save(tmp_path / f"{i}.png")
    assert callable(spoil)
    spoil(tmp_path / "3.png")
    data = ImageFolder(str(tmp_path), resolution=8, crop=10)
    with pytest.raises(ValueError, match=rf"^{tmp_path}/3\.png: cannot be used \(.*{why}.*\); remove or replace it$"):
        data.setup("fit")
    late = ImageFolder(str(tmp_path), resolution=8, crop=10, in_memory=False)
    late.setup("fit")
    with pytest.raises(ValueError, match=r"3\.png: cannot be used"):
        late.examples("train", [3])


def test_a_decompression_bomb_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "bomb.png", size=(100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(
        ValueError, match=r"bomb\.png: cannot be used \(.*decompression bomb.*\); remove or replace it$"
    ):
        Decoder(8, None, 3)(path)


def test_the_fingerprint_is_of_files_and_transform(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    save(folder / "a.png")
    file = save(folder / "b" / "b.png")

    def fingerprint(**settings: int) -> str:
        data = ImageFolder(str(folder), **{"resolution": 8, **settings})  # type: ignore[arg-type]
        data.setup("validate")
        return data.fingerprint

    same = fingerprint()
    assert fingerprint(batch_size=2, seed=1, num_workers=1, flip=False, in_memory=False) == same
    seen = {same, fingerprint(resolution=16), fingerprint(crop=4), fingerprint(channels=1)}
    os.utime(file, ns=(0, 1_000_000_000))
    seen.add(fingerprint())
    file.rename(folder / "b" / "c.png")
    seen.add(fingerprint())
    (folder / "a.png").unlink()
    seen.add(fingerprint())
    assert len(seen) == 7
    folder = folder.rename(tmp_path / "moved")
    assert fingerprint() in seen  # the same files elsewhere are the same data

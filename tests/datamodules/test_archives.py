"""Finished pictures are read as they lie, and what does not fit is named."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.archives import open_archive


@pytest.fixture
def pictures() -> np.ndarray:
    """uint8 (6, 8, 10, 3)."""
    return np.random.RandomState(0).randint(0, 256, (6, 8, 10, 3), dtype=np.uint8)


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture.squeeze()).save(file, "PNG")
    return file.getvalue()


def into_folder(folder: Path, pictures: np.ndarray, names: list[str] | None = None) -> Path:
    for number, picture in enumerate(pictures):
        path = folder / (names[number] if names else f"{number:03d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(picture))
    return folder


def into_zip(path: Path, pictures: np.ndarray, labels: object = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number, picture in enumerate(pictures):
            archive.writestr(f"{number // 4:05d}/img{number:08d}.png", png(picture))
        if labels is not None:
            archive.writestr("dataset.json", json.dumps(labels))
    return path


def test_folder_zip_and_npz_hold_the_same_pictures(tmp_path: Path, pictures: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", samples=pictures)
    np.savez_compressed(tmp_path / "b.npz", pictures)  # numpy's own name, arr_0
    sources = [
        into_folder(tmp_path / "folder", pictures),
        into_zip(tmp_path / "a.zip", pictures, {"labels": None}),
        tmp_path / "a.npz",
        tmp_path / "b.npz",
    ]
    for path in sources:
        archive = open_archive(path)
        assert (len(archive), archive.shape, archive.labels) == (6, (3, 8, 10), None)
        assert np.array_equal(archive.pictures([4, 0]).numpy(), pictures[[4, 0]].transpose(0, 3, 1, 2))


def test_grey_pictures_keep_their_one_channel(tmp_path: Path, pictures: np.ndarray) -> None:
    archive = open_archive(into_folder(tmp_path / "grey", pictures[..., :1]))
    assert archive.shape == (1, 8, 10)
    assert np.array_equal(archive.pictures(range(6)).numpy(), pictures[..., :1].transpose(0, 3, 1, 2))


def test_labels_come_from_arrays_json_or_folders(tmp_path: Path, pictures: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", arr_0=pictures, arr_1=np.array([3, 1, 2, 0, 0, 1]))
    listed = [[f"{number // 4:05d}/img{number:08d}.png", number % 3] for number in range(6)]
    labelled = into_zip(tmp_path / "a.zip", pictures, {"labels": listed})
    folders = into_folder(tmp_path / "b", pictures, [f"{'cat' if i % 2 else 'dog'}/{i}.png" for i in range(6)])
    for path, expected in [
        (tmp_path / "a.npz", [3, 1, 2, 0, 0, 1]),
        (labelled, [0, 1, 2, 0, 1, 2]),
        (folders, [0, 0, 0, 1, 1, 1]),  # the cats come first
    ]:
        labels = open_archive(path).labels
        assert labels is not None
        assert labels.tolist() == expected


def test_the_fingerprint_is_that_of_the_pictures(tmp_path: Path, pictures: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", samples=pictures)
    np.savez_compressed(tmp_path / "b.npz", images=pictures)
    pictures[3, 2, 1, 0] ^= 1
    np.savez(tmp_path / "c.npz", samples=pictures)
    prints = [open_archive(tmp_path / name).fingerprint for name in ("a.npz", "b.npz", "c.npz")]
    assert prints[0] == prints[1] != prints[2]


def test_what_cannot_be_measured_is_named(tmp_path: Path, pictures: np.ndarray) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no pictures")
    np.savez(tmp_path / "float.npz", samples=pictures / 255)
    np.savez(tmp_path / "other.npz", weights=pictures)
    np.savez(tmp_path / "labels.npz", samples=pictures, labels=np.arange(5))
    (tmp_path / "broken.npz").write_bytes(b"PK no")
    into_zip(tmp_path / "half.zip", pictures, {"labels": [["00000/img00000000.png", 1]]})
    for name, error, says in [
        ("nowhere", FileNotFoundError, "no such folder, zip or npz"),
        ("empty", FileNotFoundError, "no pictures under this folder"),
        ("text.txt", ValueError, "neither a folder nor a zip nor an npz"),
        ("float.npz", ValueError, "must be uint8 of shape .* not float64"),
        ("other.npz", ValueError, "holds weights, and none of samples"),
        ("labels.npz", ValueError, "6 pictures and labels of shape"),
        ("broken.npz", ValueError, "not an npz of pictures"),
        ("half.zip", ValueError, "does not label every picture"),
    ]:
        with pytest.raises(error, match=says) as caught:
            open_archive(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_broken_or_differing_picture_is_named(tmp_path: Path, pictures: np.ndarray) -> None:
    folder = into_folder(tmp_path / "a", pictures)
    (folder / "002.png").write_bytes(png(pictures[2])[:60])
    (folder / "003.png").write_bytes(png(pictures[3, :4]))
    archive = open_archive(folder)
    with pytest.raises(ValueError, match=r"002\.png: cannot be used .*; remove or replace it"):
        archive.pictures([2])
    with pytest.raises(ValueError, match=r"picture 3 is 10x4, the first is 10x8"):
        archive.pictures([3])
    mixed = into_folder(tmp_path / "b", pictures[:1, :, :, :1])
    (mixed / "001.png").write_bytes(png(pictures[1]))
    with pytest.raises(ValueError, match="picture 1 has colours, the first is grey"):
        open_archive(mixed).pictures([1])

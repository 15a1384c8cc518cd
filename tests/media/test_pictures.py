from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from media.pictures import LEVELS, from_levels, grid, save_png, to_levels, to_uint8, unrounded, where_points_lie


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_levels_go_there_and_back(dtype: torch.dtype) -> None:
    levels = torch.arange(LEVELS).to(dtype)
    x = from_levels(levels)
    assert x.dtype == torch.float32
    assert torch.equal(x, (levels.double() / 127.5).float() - 1)
    assert torch.equal(to_levels(x), levels.long())
    assert torch.equal(unrounded(x.double()).round(), levels.double())
    assert torch.equal(to_levels(torch.tensor([-1.2, 1.2])), torch.tensor([0, 255]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_to_uint8_inverts_every_byte(dtype: torch.dtype) -> None:
    bytes_ = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    assert torch.equal(to_uint8(bytes_.to(dtype) / 127.5 - 1), bytes_)


def test_to_uint8_rounds_to_nearest_and_clamps() -> None:
    x = torch.tensor([-torch.inf, -1.5, -1.0, -1 + 0.49 / 127.5, -1 + 0.51 / 127.5, 1.0, 1.0001, torch.inf])
    assert to_uint8(x.reshape(1, 1, 1, 8)).flatten().tolist() == [0, 0, 0, 0, 1, 255, 255, 255]


def test_to_uint8_adds_in_float32_for_half_precision() -> None:
    x = (torch.arange(256) / 127.5 - 1).reshape(1, 1, 16, 16).bfloat16()
    assert torch.equal(to_uint8(x), to_uint8(x.float()))


def test_to_uint8_counts_the_pictures_that_hold_nan() -> None:
    x = torch.zeros(5, 3, 2, 2)
    x[1, 0, 0, 0] = x[1, 1, 0, 0] = x[4, 2, 1, 1] = torch.nan
    with pytest.raises(ValueError, match="2 of 5 hold NaN"):
        to_uint8(x)


def test_to_uint8_refuses_bytes() -> None:
    with pytest.raises(ValueError, match="expected floats"):
        to_uint8(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_grid_places_pictures_row_by_row(channels: int) -> None:
    pictures = torch.randint(1, 256, (5, channels, 3, 4), dtype=torch.uint8)
    canvas = grid(pictures, columns=3, padding=1)
    assert canvas.shape == (channels, 2 * 4 + 1, 3 * 5 + 1)
    assert torch.equal(canvas[:, 1:4, 1:5], pictures[0])
    assert torch.equal(canvas[:, 1:4, 11:15], pictures[2])
    assert torch.equal(canvas[:, 5:8, 6:10], pictures[4])
    assert int(canvas.sum()) == int(pictures.sum())


def test_grid_of_one_and_without_padding() -> None:
    pictures = torch.randint(0, 256, (1, 3, 4, 4), dtype=torch.uint8)
    assert grid(pictures, columns=8).shape == (3, 8, 8)
    assert torch.equal(grid(pictures, columns=8, padding=0), pictures[0])


def test_grid_refuses_floats_nothing_and_no_columns() -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        grid(torch.zeros(1, 3, 4, 4), columns=1)
    with pytest.raises(ValueError, match="expected uint8"):
        grid(torch.zeros(0, 3, 4, 4, dtype=torch.uint8), columns=1)
    with pytest.raises(ValueError, match="columns=0"):
        grid(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), columns=0)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_a_png_holds_the_bytes(tmp_path: Path, channels: int, mode: str) -> None:
    picture = torch.randint(0, 256, (channels, 5, 7), dtype=torch.uint8)
    save_png(picture, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert (image.mode, image.size) == (mode, (7, 5))
        assert np.array_equal(np.array(image).reshape(5, 7, channels), picture.permute(1, 2, 0).numpy())
    assert len(list(tmp_path.iterdir())) == 1


def test_a_png_of_two_channels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.png: a PNG needs uint8"):
        save_png(torch.zeros(2, 4, 4, dtype=torch.uint8), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_points_lie_where_they_are_and_what_is_outside_is_left_out() -> None:
    points = torch.tensor([[-0.9, 0.9], [-0.9, 0.9], [-0.9, 0.9], [-0.9, 0.9], [0.9, -0.9], [5.0, 0.0]])
    picture = where_points_lie(points, side=2, reach=1.0)
    assert picture.tolist() == [[[255, 0], [0, 128]]]  # brightness goes with the root of the count

"""Pictures as bytes and as floats, grids of pictures, PNG files."""

import math
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from media.files import write_whole

LEVELS = 256
"""Number of values that one channel of a pixel can have."""


def from_levels(levels: Tensor) -> Tensor:
    """Pictures in [-1, 1], float32, from their bytes in any integer type."""
    return levels.float() / ((LEVELS - 1) / 2) - 1


def unrounded(x: Tensor) -> Tensor:
    """Pictures in [-1, 1] on the scale of bytes, 0 to 255, in their own precision."""
    return (x + 1) * ((LEVELS - 1) / 2)


def to_levels(x: Tensor) -> Tensor:
    """The bytes of pictures in [-1, 1], int64 of the same shape, 0 to 255."""
    return unrounded(x).round().to(torch.int64).clamp(0, LEVELS - 1)


def to_uint8(x: Tensor) -> Tensor:
    """Float pictures in [-1, 1], (N, C, H, W), as the bytes that a PNG stores: uint8 of the same shape.

    Rounds to nearest and clamps values outside [-1, 1]; `from_levels` is the inverse for every byte. ValueError if `x`
    is not a float batch, or if any picture holds NaN.
    """
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"pictures: expected floats of shape (N, C, H, W), got {x.dtype} of shape {tuple(x.shape)}")
    broken = int(x.isnan().flatten(1).any(1).sum())
    if broken:
        raise ValueError(f"pictures: {broken} of {len(x)} hold NaN; the model that made them has diverged")
    # Near ±1, half precision cannot distinguish neighbouring bytes after the addition.
    return unrounded(x.detach().float()).round().clamp(0, LEVELS - 1).to(torch.uint8)


def grid(pictures: Tensor, columns: int, padding: int = 2) -> Tensor:
    """A grid of pictures: uint8 (N, C, H, W) to uint8 (C, rows·(H+padding)+padding, columns·(W+padding)+padding).

    Filled row by row; the gaps, `padding` pixels wide, and unused places in the last row are zero. There are never
    more columns than pictures. ValueError for another dtype or shape, no picture, or no column.
    """
    # torchvision.utils.make_grid turns grey into RGB and omits the frame around a single picture.
    if pictures.ndim != 4 or pictures.dtype != torch.uint8 or len(pictures) == 0:
        raise ValueError(
            f"pictures: expected uint8 of shape (N > 0, C, H, W), got {pictures.dtype} of {tuple(pictures.shape)}"
        )
    if columns < 1 or padding < 0:
        raise ValueError(f"columns={columns}, padding={padding}: expected at least 1 and at least 0")
    count, channels, height, width = pictures.shape
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    canvas = pictures.new_zeros(channels, rows * (height + padding) + padding, columns * (width + padding) + padding)
    for index, picture in enumerate(pictures):
        top = padding + index // columns * (height + padding)
        left = padding + index % columns * (width + padding)
        canvas[:, top : top + height, left : left + width] = picture
    return canvas


def where_points_lie(points: Tensor, side: int = 256, reach: float = 1.25) -> Tensor:
    """Points (N, 2) as uint8 (1, side, side), brighter where more lie; both axes from -reach to reach, y upwards."""
    cells = ((points.detach().float().cpu() / reach + 1) * (side / 2)).floor().long()
    inside = cells[((cells >= 0) & (cells < side)).all(1)]
    counts = torch.zeros(side * side).index_add_(
        0, (side - 1 - inside[:, 1]) * side + inside[:, 0], torch.ones(len(inside))
    )
    brightness = counts / max(float(counts.max()), 1.0)
    return (255 * brightness.sqrt()).round().to(torch.uint8).view(1, side, side)


def save_png(picture: Tensor, path: Path) -> None:
    """Writes a uint8 picture (C, H, W) as PNG, whole or not at all: C is 1 (grey), 3 (RGB) or 4 (RGBA).

    ValueError for another dtype, shape or number of channels; OSError like `write_whole`.
    """
    if picture.ndim != 3 or picture.dtype != torch.uint8 or picture.shape[0] not in (1, 3, 4):
        raise ValueError(
            f"{path}: a PNG needs uint8 of shape (1, 3 or 4, H, W), got {picture.dtype} of {tuple(picture.shape)}"
        )
    pixels = picture.permute(1, 2, 0).contiguous().cpu().numpy()
    image = Image.fromarray(pixels[:, :, 0] if picture.shape[0] == 1 else pixels)
    write_whole(path, lambda file: image.save(file, format="PNG"))

"""How pictures are resized to a network's input.

The filter affects a figure as much as the model does: Parmar, Zhang and Zhu 2022, "On Aliased Resizing and Surprising
Subtleties in GAN Evaluation", section 3. So every protocol names it.
"""

from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

from features.precision import exact_arithmetic

Filter = Literal["bicubic", "tf1-bilinear"]
FILTERS: tuple[str, ...] = get_args(Filter)


def resized(pictures: Tensor, side: int, filter: Filter) -> Tensor:
    """Pictures, uint8 (N, C, H, W), as float32 (N, C, side, side) in [0, 255], on their device; not rounded to bytes.

    - "bicubic": as clean-fid, that is Pillow's bicubic with antialiasing on each channel in floating point, clamped,
      because bicubic overshoots at edges.
    - "tf1-bilinear": TensorFlow 1's `resize_bilinear`, without antialiasing, as in the first FID (Heusel et al. 2017)
      and in torch-fidelity.

    Pictures of that side keep their values. ValueError for an unknown filter, another dtype or shape, a picture without
    pixels, or a side below 1.
    """
    check_filter(filter)
    if pictures.dtype != torch.uint8 or pictures.ndim != 4 or 0 in pictures.shape[1:]:
        raise ValueError(f"pictures: expected uint8 (N, C, H, W), got {pictures.dtype} of {tuple(pictures.shape)}")
    if side < 1:
        raise ValueError(f"side={side}: expected at least 1")
    return resized_floats(pictures.float(), side, filter)


def resized_floats(x: Tensor, side: int, filter: Filter) -> Tensor:
    """As `resized`, for pictures float32 (N, C, H, W) in [0, 255] that were not rounded to bytes."""
    if x.shape[2:] == (side, side):
        return x
    return _bicubic(x, side) if filter == "bicubic" else _tensorflow1_bilinear(x, side)


def check_filter(filter: str) -> None:
    """ValueError, with the known names, for an unknown filter."""
    if filter not in FILTERS:
        raise ValueError(f"resize={filter!r}: expected one of {', '.join(FILTERS)}")


def _bicubic(x: Tensor, side: int) -> Tensor:
    """Both axes by a product with a matrix of weights, whatever the sizes.

    `F.interpolate(antialias=True)` computes its weights in float32, which puts it up to 0.007 grey levels from Pillow;
    this stays within 0.0001, and is faster for pictures up to 128 pixels.
    """
    height, width = x.shape[2:]
    # The columns first, like Pillow.
    with exact_arithmetic(x.device, gradients=True):
        x = x @ _bicubic_weights(width, side, x.device).T
        return (_bicubic_weights(height, side, x.device) @ x).clamp(0, 255)


@lru_cache(maxsize=64)
def _bicubic_weights(size: int, side: int, device: torch.device) -> Tensor:
    """The weight of each of `size` pixels in each of `side` outputs, float32 (side, size); every row sums to 1.

    Keys 1981, "Cubic convolution interpolation for digital image processing", equation 8 has the kernel (a = -1/2).
    Shrinking stretches it by the factor, so that it covers every pixel.
    """
    step = size / side
    stretch = max(step, 1.0)
    # Positions in float64: in float32 those far from the first pixel would be off by more than the bytes' rounding.
    centres = (torch.arange(side, dtype=torch.float64, device="cpu") + 0.5) * step
    pixels = torch.arange(size, dtype=torch.float64, device="cpu") + 0.5
    distance = ((pixels - centres[:, None]) / stretch).abs()
    near = (1.5 * distance - 2.5) * distance.square() + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    return (weights / weights.sum(1, keepdim=True)).float().to(device)


def _tensorflow1_bilinear(x: Tensor, side: int) -> Tensor:
    """Output i lies at i·size/side, without half-pixel centres, between the two pixels around it.

    The order of operations is TensorFlow's, for equality to the last bit: columns first, `a + (b - a)·t`.
    """
    low, high, fraction = _neighbours(x.shape[3], side, x.device)
    left = x[:, :, :, low]
    x = left + (x[:, :, :, high] - left) * fraction
    low, high, fraction = _neighbours(x.shape[2], side, x.device)
    above = x[:, :, low]
    return above + (x[:, :, high] - above) * fraction[:, None]


def _neighbours(size: int, side: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `side` outputs: the pixel before it, the pixel after it, and the fraction of the way between them."""
    position = torch.arange(side, dtype=torch.float32, device=device) * torch.tensor(size / side, dtype=torch.float32)
    low = position.long()
    return low, (low + 1).clamp_max(size - 1), position - low

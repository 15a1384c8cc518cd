"""Perceptual path length (Karras et al. 2019, arXiv:1812.04948, section 4.1): how evenly pictures change with latents.

Both ends of a short step between two latents are drawn, and the perceptual distance of the two pictures is divided by
the square of the step. The distance is itself quadratic, so this is the squared speed of the picture. Its mean over
many places is low if small moves never change a picture abruptly.
"""

import math
from typing import Literal, Protocol, Self, TypeAlias

import torch
from torch import Tensor

from features.efficientnet import EfficientNetFeatures
from media.pictures import unrounded
from metrics.interpolation import Interpolation

Sampling: TypeAlias = Literal["full", "end"]
"""Where steps are taken: anywhere between the latents, or, since StyleGAN2, at the first of them (t = 0)."""

TRIMMED = 0.01
"""Share of the distances that is left out at both ends: single ones may be as large as all others together."""
LARGEST_SIDE = 256
"""Larger pictures are reduced to this side before they are compared."""


class PathDistance(Protocol):
    """A perceptual distance that is quadratic in small differences of pictures."""

    name: str
    """The part of the figure's name; empty for the distance of the published figure."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances, float64 (N,) on the CPU, of float32 pictures (N, 1 or 3, H, W) whose range is [-1, 1]."""
        ...

    def protocol(self) -> dict[str, str | int]:
        """What comparable figures have in common: the network, its weights, its input."""
        ...

    def to(self, device: torch.device) -> Self: ...


class EfficientNetDistance:
    """The squared Euclidean distance of two pictures' features, the same as FD-EffNet's.

    It needs no download, but uses the last layer alone, while LPIPS compares every depth: its path lengths are another
    figure.
    """

    name = "effnet"

    def __init__(self, extractor: EfficientNetFeatures) -> None:
        self._extractor = extractor

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        features = self._extractor.unrounded(unrounded(torch.cat([a, b]))).double().cpu()
        first, second = features.chunk(2)
        return (first - second).square().sum(1)

    def protocol(self) -> dict[str, str | int]:
        return {"distance": "squared, of features", **self._extractor.protocol()}

    def to(self, device: torch.device) -> Self:
        self._extractor.to(device)
        return self


def step_ends(a: Tensor, b: Tensor, t: Tensor, epsilon: float, between: Interpolation) -> tuple[Tensor, Tensor]:
    """Both ends of the step from t to t + epsilon between `a` and `b` (equations 2 and 3).

    In float64 on the CPU, whatever the inputs: in float32, rounding would take part of the step itself.
    """
    a, b, t = (x.cpu().double() for x in (a, b, t))
    return between(a, b, t), between(a, b, t + epsilon)


def compared(pictures: Tensor, crop: bool) -> Tensor:
    """Pictures (N, C, H, W) as they are compared: reduced, and with `crop` just the faces, as for FFHQ.

    The crop goes from 3/8 to 7/8 of the height and from 2/8 to 6/8 of the width. Sides are reduced by a whole factor, a
    mean over squares, to no less than 256.
    """
    whole = pictures.shape[2]
    if crop:
        top, left = pictures.shape[2] // 8, pictures.shape[3] // 8
        pictures = pictures[:, :, 3 * top : 7 * top, 2 * left : 6 * left]
    factor = whole // LARGEST_SIDE  # of the whole picture, as published: a crop of 512 px is reduced to 128
    return torch.nn.functional.avg_pool2d(pictures, factor) if factor > 1 else pictures


def trimmed_mean(distances: Tensor) -> tuple[float, float, int]:
    """Mean of distances (N,) without the lowest and the highest hundredth; its standard error; how many were kept.

    The limits are values that occur, the next ones outwards, and are kept themselves. ValueError for fewer than two
    distances, or one that is not finite.
    """
    if len(distances) < 2:
        raise ValueError(f"a path length needs at least 2 samples, not {len(distances)}")
    broken = int((~distances.isfinite()).sum())
    if broken:
        raise ValueError(f"{broken} of {len(distances)} steps have no finite length: the model has diverged")
    ordered = distances.double().sort().values
    lowest = math.floor(TRIMMED * (len(ordered) - 1))
    highest = math.ceil((1 - TRIMMED) * (len(ordered) - 1))
    kept = ordered[(ordered >= ordered[lowest]) & (ordered <= ordered[highest])]
    error = float(kept.std()) / math.sqrt(len(kept)) if len(kept) > 1 else math.nan
    return float(kept.mean()), error, len(kept)

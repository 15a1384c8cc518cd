"""Perceptual path length (Karras et al. 2019, arXiv:1812.04948, section 4.1): how evenly pictures change with latents.

Between two latents a short step is taken, both its ends are drawn, and how far apart the two pictures look is divided
by the square of the step: the squared speed of the picture, by a perceptual distance that is itself quadratic. Its mean
over many places is low where small moves never change a picture abruptly.
"""

import math
from typing import Literal, Protocol, Self, TypeAlias

import torch
from torch import Tensor

from features.efficientnet import EfficientNetFeatures
from media.pictures import unrounded
from metrics.interpolation import Interpolation

Sampling: TypeAlias = Literal["full", "end"]
"""Where steps are taken: anywhere between the latents, or, since StyleGAN2, from the first of them (t = 0)."""

TRIMMED = 0.01
"""Share of the distances that is left out on either side: single ones may be as large as all others together."""
LARGEST_SIDE = 256
"""Larger pictures are reduced to this side before they are compared."""


class PathDistance(Protocol):
    """A perceptual distance that is quadratic in small differences of pictures."""

    name: str
    """As it stands in the figure's name; empty for the distance that the figure was published with."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances, float64 (N,) on the CPU, of float32 pictures (N, 1 or 3, H, W) whose range is [-1, 1]."""
        ...

    def protocol(self) -> dict[str, str | int]:
        """What figures must have in common to be compared: the network, its weights, its input."""
        ...

    def to(self, device: torch.device) -> Self:
        """This distance, moved."""
        ...


class EfficientNetDistance:
    """The squared Euclidean distance of two pictures' features: those that FD-EffNet is computed from.

    Offline, and of the last layer alone, where LPIPS compares every depth: a path length by it is another figure.
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
    """Both ends of the step from t to t + epsilon on the way from `a` to `b` (equations 2 and 3).

    In float64 on the CPU, whatever comes in: in float32 the ends would be rounded by a part of the step itself.
    """
    a, b, t = (x.cpu().double() for x in (a, b, t))
    return between(a, b, t), between(a, b, t + epsilon)


def compared(pictures: Tensor, crop: bool) -> Tensor:
    """Pictures (N, C, H, W) as they are compared: their faces, where `crop` says that they are as FFHQ's, and reduced.

    The crop goes from 3/8 to 7/8 of the height and from 2/8 to 6/8 of the width; sides are reduced by a whole factor, a
    mean over squares, to no less than 256.
    """
    whole = pictures.shape[2]
    if crop:
        top, left = pictures.shape[2] // 8, pictures.shape[3] // 8
        pictures = pictures[:, :, 3 * top : 7 * top, 2 * left : 6 * left]
    factor = whole // LARGEST_SIDE  # of the whole picture, as published: a crop of 512 px comes to 128
    return torch.nn.functional.avg_pool2d(pictures, factor) if factor > 1 else pictures


def trimmed_mean(distances: Tensor) -> tuple[float, float, int]:
    """Mean of distances (N,) without the lowest and the highest hundredth; its standard error; how many were kept.

    The bounds are values that occur, the next ones outwards, and belong to what is kept.

    Raises:
        ValueError: fewer than two distances, or one that is no number.
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

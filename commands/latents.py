"""What the verbs that move latents share: a model that has them, and pictures of them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from metrics.pictures import to_uint8
from models.base import GenerativeModel, HasLatents, HasStyles, SamplerSettings

Decode: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(latents (N, ...), labels (N,)) to samples (N, C, H, W) in [-1, 1]."""


def with_latents(model: GenerativeModel, path: Path) -> HasLatents:
    """The model, if it draws pictures from latents. ValueError, in one line, if not."""
    if len(model.data_shape) != 3 or model.data_shape[0] not in (1, 3):
        raise ValueError(f"{path}: samples of shape {model.data_shape} are no pictures")
    if not isinstance(model, HasLatents):
        raise ValueError(f"{path}: {type(model).__name__} has no latents to move")
    return model


def with_styles(model: GenerativeModel, path: Path, remedy: str = "") -> HasStyles:
    """The model, if it draws pictures from styles, intermediate latents. ValueError, in one line, if not."""
    with_latents(model, path)
    if not isinstance(model, HasStyles):
        raise ValueError(f"{path}: {type(model).__name__} has no intermediate latents, w{remedy}")
    return model


def decoder(model: HasLatents, space: str, settings: SamplerSettings) -> Decode:
    """Pictures of the points of a space: z, the latents, or w, the styles."""
    if space == "z":
        return lambda latents, labels: model.decode(latents, labels, settings=settings)
    assert isinstance(model, HasStyles)
    return lambda ws, labels: model.from_w(ws, settings=settings)


@torch.no_grad()
def decoded(decode: Decode, points: Tensor, labels: Tensor, batch_size: int) -> Iterator[Tensor]:
    """The picture of each point, uint8 (C, H, W) on the CPU, in order; `batch_size` of them are decoded at once."""
    for start in range(0, len(points), batch_size):
        part = slice(start, start + batch_size)
        yield from to_uint8(decode(points[part], labels[part])).cpu()

"""Shared by verbs that use latents: models that have them, pictures of latents, projections."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from commands.options.checkpoints import require_pictures
from commands.options.drawings import keep_arrays
from commands.options.errors import one_line
from commands.options.sources import pictures_at
from media.pictures import from_levels, to_uint8
from metrics.picture_set import PictureSet
from models.training.base import GenerativeModel
from models.training.capabilities import Encodes, HasLatents, HasStyles
from settings.sampling import SamplerSettings

Decode: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(latents (N, ...), labels (N,)) to samples (N, C, H, W) in [-1, 1]."""

NAMED = {"coarse": (0, 2), "middle": (3, 6), "fine": (7, None)}
"""First and last layer of 4 and 8 px, of 16 and 32 px, and beyond (Karras et al. 2019, section 3.1).

StyleGAN2 has one convolution at 4 px and two at each further resolution. The to_rgb layer of a resolution shares the
style of the next convolution; the last to_rgb layer has its own.
"""


def with_latents(model: GenerativeModel, path: Path) -> HasLatents:
    """The model. ValueError, in one line, unless it draws pictures from latents."""
    require_pictures(model, path)
    if not isinstance(model, HasLatents):
        remedy = ": walk between encoded --pictures" if isinstance(model, Encodes) else ""
        raise ValueError(f"{path}: {type(model).__name__} has no latents to draw{remedy}")
    return model


def with_styles(model: GenerativeModel, path: Path, remedy: str = "") -> HasStyles:
    """The model. ValueError, in one line, unless it draws pictures from styles, w."""
    with_latents(model, path)
    if not isinstance(model, HasStyles):
        raise ValueError(f"{path}: {type(model).__name__} has no intermediate latents, w{remedy}")
    return model


def with_decoder(model: GenerativeModel, path: Path) -> Encodes:
    """The model. ValueError, in one line, unless it encodes pictures and decodes their codes."""
    require_pictures(model, path)
    if not isinstance(model, Encodes):
        raise ValueError(f"{path}: {type(model).__name__} does not encode pictures")
    return model


def fitting_pictures(source: Path, split: str, model: GenerativeModel) -> PictureSet:
    """The pictures of a folder, zip, npz or data config, which must have the shape that the model encodes.

    Raises FileNotFoundError, ValueError if there are none, or they have another shape.
    """
    pictures, shape = pictures_at(source, split)
    if tuple(shape) != tuple(model.data_shape):
        raise ValueError(f"{source}: its pictures have shape {tuple(shape)}, but the model encodes {model.data_shape}")
    return pictures


def read_pictures(pictures: PictureSet, indices: Sequence[int], model: GenerativeModel) -> tuple[Tensor, Tensor]:
    """Pictures as the model's input, float (N, C, H, W) in [-1, 1], and their labels; zeros without classes."""
    if max(indices) >= pictures.count:
        raise ValueError(f"{pictures.name} has {pictures.count} pictures: there is none with index {max(indices)}")
    some, labels = pictures.read(list(indices))
    x = from_levels(some.to(model.device)).contiguous(memory_format=torch.channels_last)
    return x, model.given_labels(labels if model.label_classes else None, len(x)).to(model.device)


def decoder(
    model: HasLatents | Encodes, space: str, settings: SamplerSettings, noises: Sequence[Tensor] = ()
) -> Decode:
    """Decodes points of a space: z, the latents, or w, the styles, with fixed noises if there are any."""
    if space == "z":
        return lambda latents, labels: model.decode(latents, labels, settings=settings)
    assert isinstance(model, HasStyles)

    def decode(ws: Tensor, labels: Tensor) -> Tensor:
        kept = [noise.expand(len(ws), -1, -1, -1) for noise in noises]
        return model.from_w(ws, noise=kept or None, settings=settings)

    return decode


@torch.no_grad()
def decoded(decode: Decode, points: Tensor, labels: Tensor, batch_size: int) -> Iterator[Tensor]:
    """The picture of each point, uint8 (C, H, W) on the CPU, in order, with a progress bar."""
    with tqdm(total=len(points), unit="picture", disable=not sys.stderr.isatty()) as bar:
        for start in range(0, len(points), batch_size):
            part = slice(start, start + batch_size)
            yield from to_uint8(decode(points[part], labels[part])).cpu()
            bar.update(len(points[part]))


def layers_of(text: str | None, layers: int) -> tuple[int, int]:
    """First and last of a model's layers that "coarse", "middle", "fine", "0-5", "3" or None (all) stands for.

    Raises ValueError if `text` is none of these, or the model does not have the layers.
    """
    if text is None:
        return 0, layers - 1
    if text in NAMED:
        first, end = NAMED[text]
        last = layers - 1 if end is None else min(end, layers - 1)
    else:
        head, dash, tail = text.partition("-")
        if not head.isdecimal() or (dash and not tail.isdecimal()):
            raise ValueError(f"--layers {text}: give {', '.join(NAMED)}, or layers such as 0-5 or 3")
        first = int(head)
        last = int(tail) if dash else first
    if not first <= last < layers:
        raise ValueError(f"--layers {text}: this model has layers 0 to {layers - 1}, from 4 px up")
    return first, last


@dataclass(frozen=True)
class Projection:
    """The latent of a picture, as `latents project` found it."""

    space: str
    """w or z."""
    point: Tensor
    """(1, layers, w_dim), or (1, latent_dim)."""
    noises: list[Tensor]
    """(1, 1, side, side) for each layer; empty if there are none."""
    label: int
    protocol: dict[str, Any]


def save_projection(path: Path, point: Tensor, noises: Sequence[Tensor], label: int, protocol: dict[str, Any]) -> None:
    """Writes a projection as an npz without pickles: w or z, noise_0 ..., label, protocol (JSON)."""
    name = "z" if point.ndim == 2 else "w"
    arrays = {name: point.float().cpu().numpy(), "label": np.array(label)}
    arrays |= {f"noise_{i}": noise.float().cpu().numpy() for i, noise in enumerate(noises)}
    keep_arrays(arrays, path, protocol)


def read_projection(path: Path, model: GenerativeModel) -> Projection:
    """Reads a projection onto the model's device. Raises ValueError if it is broken, or of another model."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; `latents project` writes it as latent.npz")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "protocol"}
            protocol = json.loads(str(file["protocol"]))
        space = "w" if "w" in arrays else "z"
        point, label = arrays[space].float(), int(arrays["label"])
        noises = [arrays[f"noise_{i}"].float() for i in range(sum(name.startswith("noise_") for name in arrays))]
    # A broken archive may raise almost anything: BadZipFile, KeyError, TypeError, EOFError, UnpicklingError ...
    except Exception as error:
        raise ValueError(f"{path} is not a projection ({one_line(error)}); write it with `latents project`") from error
    expected: tuple[str, tuple[int, ...] | None]
    with torch.no_grad():
        latent = model.draw_latents([0]) if isinstance(model, HasLatents) else None
        if isinstance(model, HasStyles) and latent is not None:
            expected = "w", model.to_w(latent, model.sample_labels([0])).shape
            sides = [tuple(noise.shape) for noise in noises]
            fits = not noises or sides == [(1, 1, side, side) for side in model.noise_sides]
        else:
            expected, fits = ("z", None if latent is None else latent.shape), not noises
    if (space, point.shape) != expected or not fits:
        raise ValueError(
            f"{path}: {space} of shape {tuple(point.shape)} belongs to another model than this {type(model).__name__}; "
            "give the checkpoint of the projection"
        )
    if not 0 <= label < max(model.label_classes, 1) or not all(x.isfinite().all() for x in (point, *noises)):
        raise ValueError(f"{path}: its class or its numbers are invalid; write it again with `latents project`")
    point, *noises = (each.to(model.device) for each in (point, *noises))
    return Projection(space, point, noises, label, protocol)

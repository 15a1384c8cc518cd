"""A model's samples and a dataset's pictures, as picture sets for evaluations."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from media.pictures import from_levels, to_uint8
from metrics.picture_set import PictureSet
from models.training.base import GenerativeModel
from models.training.capabilities import Encodes
from settings.sampling import SamplerSettings


class DataSet(Protocol):
    """The part of a data module that evaluations use."""

    fingerprint: str
    num_classes: int

    def splits(self) -> tuple[Any, ...]: ...
    def size(self, split: Any) -> int: ...  # noqa: ANN401 - the datamodule's own literal type
    def examples(self, split: Any, indices: Sequence[int]) -> tuple[Tensor, Tensor]: ...  # noqa: ANN401


@runtime_checkable
class HasModes(Protocol):
    """Data with known modes of equal size."""

    num_modes: int

    def modes(self, pictures: Tensor) -> Tensor:
        """The mode of each picture, uint8 (N, C, H, W); -1 for none."""


def real_pictures(data: DataSet, split: str, count: int | None = None) -> PictureSet:
    """A split of a dataset, or `count` of its pictures, drawn with a fixed seed."""

    def read(indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        x, labels = data.examples(split, indices)
        return to_uint8(x), labels if data.num_classes else None

    modes = data.modes if isinstance(data, HasModes) else None
    whole = PictureSet(
        name=f"the {split} split",
        fingerprint=data.fingerprint,
        count=data.size(split),
        read=read,
        modes=modes,
        num_modes=data.num_modes if isinstance(data, HasModes) else 0,
        num_classes=data.num_classes,
        part=split,
    )
    return whole if count is None else whole.subset(count)


def model_samples(model: GenerativeModel, count: int, seed: int, settings: SamplerSettings) -> PictureSet:
    """Samples 0 to count - 1 of a model, rounded to bytes like saved pictures."""

    def read(indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        labels = model.sample_labels(indices, seed=seed) if model.label_classes else None
        return to_uint8(model.sample(indices, labels, seed=seed, settings=settings)), labels

    return PictureSet(
        name="the model's samples",
        fingerprint=f"{type(model).__name__} {model.samples_seen} {seed} {settings}",
        count=count,
        read=read,
        num_classes=model.label_classes,
    )


def held_out(data: DataSet) -> Literal["train", "test"]:
    """The "test" split if there is one, otherwise "train"; protocols say which."""
    return "test" if "test" in data.splits() else "train"


def reconstructions(model: GenerativeModel, pictures: PictureSet, settings: SamplerSettings) -> PictureSet:
    """A model's reconstructions of pictures, rounded to bytes like saved pictures.

    Raises ValueError if the model does not encode.
    """
    if not isinstance(model, Encodes):
        raise ValueError(f"{type(model).__name__} does not encode pictures, so it cannot reconstruct them")

    def read(indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        some, labels = pictures.read(indices)
        x = from_levels(some.to(model.device)).contiguous(memory_format=torch.channels_last)
        known = labels.to(model.device) if labels is not None and model.label_classes else None
        return to_uint8(model.reconstruct(x, known, settings=settings)), None

    return PictureSet(
        name=f"reconstructions of {pictures.name}",
        fingerprint=f"{type(model).__name__} {model.samples_seen} {settings} of {pictures.fingerprint}",
        count=pictures.count,
        read=read,
    )


def in_batches(
    pictures: PictureSet, share: range, size: int, stop: Callable[[], bool] = lambda: False
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The pictures of a share, in batches; ends early if `stop` returns True."""
    for start in range(0, len(share), size):
        if stop():
            return
        yield pictures.read(share[start : start + size])

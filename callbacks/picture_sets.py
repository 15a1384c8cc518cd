"""A model's samples and a data set's pictures, as the evaluation engine takes them."""

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
    """What a datamodule offers for reference statistics."""

    fingerprint: str
    num_classes: int

    def splits(self) -> tuple[Any, ...]: ...
    def size(self, split: Any) -> int: ...  # noqa: ANN401 - the datamodule's own literal type
    def examples(self, split: Any, indices: Sequence[int]) -> tuple[Tensor, Tensor]: ...  # noqa: ANN401


@runtime_checkable
class HasModes(Protocol):
    """Data whose modes are known, in equal numbers."""

    num_modes: int

    def modes(self, pictures: Tensor) -> Tensor:
        """The mode that each picture, uint8 (N, C, H, W), shows; -1 for none."""


def real_pictures(data: DataSet, split: str, count: int | None = None) -> PictureSet:
    """A split of a data set, or `count` of its pictures, drawn with a fixed seed.

    Raises:
        ValueError: there is no such split.
    """

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
    """Samples 0 to count - 1 of a model for a seed, rounded to bytes as saved pictures are."""

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
    """The split that no training saw: "test"; "train" where there is no other, which figures then say."""
    return "test" if "test" in data.splits() else "train"


def reconstructions(model: GenerativeModel, pictures: PictureSet, settings: SamplerSettings) -> PictureSet:
    """What a model makes of pictures after encoding them, rounded to bytes as saved pictures are.

    Raises:
        ValueError: it does not encode.
    """
    if not isinstance(model, Encodes):
        raise ValueError(f"{type(model).__name__} does not encode pictures, and cannot reconstruct them")

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
    """A share of the pictures, batch by batch; ends early when `stop` says so."""
    for start in range(0, len(share), size):
        if stop():
            return
        yield pictures.read(share[start : start + size])

"""The contract of a data module, and what all picture datasets share."""

import hashlib
import signal
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, cast

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as transforms

from datamodules.order import OrderedBatches, keyed_generator
from media.pictures import from_levels
from settings.configurable import Configurable, describe

Split = Literal["train", "test"]
Batch = tuple[Tensor, Tensor]


def at_least(key: str, value: int, least: int) -> None:
    """Raises ValueError, naming the key, if `value` is below `least`."""
    if value < least:
        raise ValueError(f"{key}: must be at least {least}, got {value}")


def one_line(error: BaseException) -> str:
    """An error's message without line breaks, to be quoted in a one-line message."""
    return " ".join(str(error).split())


class Examples(Protocol):
    """A split, indexed by whole batches: an int64 tensor of n indices gives n examples and n labels."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor) -> Batch: ...


class Trainee(Protocol):
    """What a data module needs to know of the model in training."""

    micro_batches: int
    """Batches that one training step consumes: discriminator steps x accumulation."""
    samples_seen: int
    """Training examples consumed so far, over all ranks."""

    def samples_per_step(self, samples_seen: int, least: int) -> int:
        """Examples, over all ranks, in the step that begins after `samples_seen`: a multiple of `least`."""


def _start_worker(_worker: int) -> None:
    # Ctrl-C reaches the whole process group. Only the main process may react: it ends the batch and saves.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


class DataModule(LightningDataModule, Configurable, ABC):
    """The contract: what every model, callback and command may ask of a dataset.

    A batch is `(x, y)`. x is float32 in [-1, 1] of shape (N, *data_shape), or int64 tokens of shape (N, length) if
    there is a `vocabulary_size`. y is int64 of shape (N,), all zeros if `num_classes` is 0. After `setup`, `train_size`
    is the number of training examples, and `fingerprint` a hex digest that changes with the data and their transform,
    but not with the batch size, seed, workers or augmentation.

    Training batches follow `datamodules.order`. The position is the model's `samples_seen`; nothing else is saved, and
    batches that a worker has prefetched do not count. A checkpoint holds `settings`, and a run cannot resume on other
    data. A subclass keeps every constructor argument as an attribute of the same name (see `settings.configurable`).

    Args:
        data_shape: Of one example: (channels, height, width) for pictures.
        num_classes: 0 if there are no labels.
        class_names: One per class; () if there are none.
        batch_size: Of one discriminator step (or one forward pass), over all ranks; a model may ask for multiples of
            it.
        seed: Of the order and of augmentation.
        num_workers: Processes per rank that load batches; 0 loads in the training process.

    Raises:
        ValueError: A setting is out of range; the message names it.
    """

    split_remedy: ClassVar[str] = "use split 'train'"
    """What to do if a split does not exist."""
    loading_only: ClassVar[frozenset[str]] = frozenset({"data_dir", "batch_size", "seed", "num_workers", "in_memory"})
    """Arguments that say where and how examples are loaded, not what they are: a run may resume with others."""

    vocabulary_size: int = 0
    """The number of tokens, 0 to vocabulary_size - 1, if examples are sequences of them; otherwise 0."""
    alphabet: str | None = None
    """The character of each token, if tokens are characters."""
    fingerprint: str

    def __init__(
        self,
        data_shape: tuple[int, ...],
        num_classes: int,
        class_names: tuple[str, ...],
        batch_size: int,
        seed: int,
        num_workers: int,
    ) -> None:
        super().__init__()
        at_least("batch_size", batch_size, 1)
        at_least("num_workers", num_workers, 0)
        self.data_shape = data_shape
        self.num_classes = num_classes
        self.class_names = class_names
        self.batch_size = batch_size
        self.seed = seed
        self.num_workers = num_workers

    @property
    def note(self) -> str | None:
        """After `setup`, one line that tells the user what these data are, for the plan; or None."""
        return None

    def splits(self) -> tuple[Split, ...]:
        """The splits that exist, "train" first: both, unless a subclass says otherwise."""
        return ("train", "test")

    @abstractmethod
    def identity(self) -> tuple[object, ...]:
        """Plain values with a stable repr that tell these data and their transform from any others."""

    @abstractmethod
    def dataset(self, split: Split) -> Examples:
        """One split as it is stored, before any transform on the device. Raises ValueError if it does not exist."""

    def examples(self, split: Split, indices: Sequence[int]) -> Batch:
        """The examples with these indices, in this order, as a batch on the CPU, without augmentation.

        ValueError if the split does not exist, or an index is outside it.
        """
        size, wanted = self.size(split), torch.tensor(indices, dtype=torch.int64)
        if len(wanted) and not 0 <= int(wanted.min()) <= int(wanted.max()) < size:
            raise ValueError(f"split {split!r} has indices 0 to {size - 1}, not {wanted.min()} to {wanted.max()}")
        return self.dataset(split)[wanted]

    def setup(self, stage: str | None = None) -> None:
        what = repr((type(self).__name__, self.data_shape, self.identity()))
        self.fingerprint = hashlib.sha256(what.encode()).hexdigest()

    def settings(self) -> dict[str, Any]:
        """The settings that decide which examples training sees: `describe`, without those of `loading_only`."""
        return {**describe(self, without=self.loading_only)}

    def size(self, split: Split) -> int:
        """The number of examples in a split. Raises ValueError if the split does not exist."""
        return len(self.dataset(split))

    @property
    def train_size(self) -> int:
        return self.size("train")

    def train_dataloader(self) -> DataLoader[Batch]:
        """Endless batches in the seeded order, from the model's position; each feeds one whole training step.

        ValueError if the ranks do not divide the batch size, or a trainer setting would replace the order.
        """
        rank, world_size = self._rank_and_world_size()
        batches = OrderedBatches(
            size=self.train_size,
            seed=self.seed,
            start=self._samples_seen,
            joint_batch=self._joint_batch,
            rank=rank,
            world_size=world_size,
        )
        return self._loader("train", batches)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Every example of the test split (or of the train split, if it is the only one) once, in order.

        Ranks share the indices without padding: rank r of W takes r, r + W, r + 2W …, so two ranks may differ by one
        example, and by one batch.
        """
        split: Split = "test" if "test" in self.splits() else "train"
        rank, world_size = self._rank_and_world_size()
        share = torch.arange(rank, self.size(split), world_size)
        return self._loader(split, list(share.split(self.batch_size // world_size)))

    def test_dataloader(self) -> DataLoader[Batch]:
        return self.val_dataloader()

    def require(self, split: Split) -> None:
        """Raises ValueError, with a remedy, if the split does not exist."""
        if split not in self.splits():
            raise ValueError(f"{type(self).__name__} has no split {split!r} here: {self.split_remedy}")

    def _loader(self, split: Split, batches: OrderedBatches | list[Tensor]) -> DataLoader[Batch]:
        return DataLoader(
            self.dataset(split),  # type: ignore[arg-type]  # one index tensor gives one batch, as the sampler asks
            sampler=batches,
            batch_size=None,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            worker_init_fn=_start_worker,
            # Without a generator of its own, a loader draws from the global one at the start of each iteration,
            # and a resumed run would see other noise.
            generator=keyed_generator("workers", self.seed),
        )

    def _rank_and_world_size(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        if self.batch_size % world_size:
            below = self.batch_size // world_size * world_size
            options = f"{below} or {below + world_size}" if below else f"{world_size}"
            raise ValueError(f"batch_size: {self.batch_size} is not divisible by {world_size} devices; use {options}")
        # Lightning would replace the samplers with its own, which shard (and pad) the shards again.
        if world_size > 1 and self.trainer._accelerator_connector.use_distributed_sampler:
            raise ValueError("trainer.use_distributed_sampler: must be false, the data module shards the data itself")
        if self.trainer.overfit_batches:  # type: ignore[attr-defined]  # set from outside the class
            raise ValueError("trainer.overfit_batches: would replace the data module's order; use a smaller dataset")
        return rank, world_size

    def _trainee(self) -> Trainee:
        assert self.trainer is not None
        return cast(Trainee, self.trainer.lightning_module)

    def _samples_seen(self) -> int:
        return 0 if self.trainer is None else self._trainee().samples_seen

    def _joint_batch(self, position: int) -> int:
        if self.trainer is None:
            return self.batch_size
        model = self._trainee()
        return model.samples_per_step(position, self.batch_size * model.micro_batches)


@dataclass(frozen=True, eq=False)
class Pictures:
    """A split of pictures in memory: uint8 (N, height, width, channels), and labels int64 (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> Batch:
        return self.images[indices], self.labels[indices]


@dataclass(frozen=True, eq=False)
class Subset:
    """The examples of a split at `chosen`, int64 (n,), in this order."""

    whole: Examples
    chosen: Tensor

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, indices: Tensor) -> Batch:
        return self.whole[self.chosen[indices]]


def to_float(images: Tensor) -> Tensor:
    """Stored pictures as models see them: uint8 (N, H, W, C) to float32 (N, C, H, W) in [-1, 1], channels_last."""
    return from_levels(images.permute(0, 3, 1, 2))


def resized(images: Tensor, resolution: int) -> Tensor:
    """Pictures uint8 (N, H, W, C) resized to (N, resolution, resolution, C): bilinear, antialiased."""
    if images.shape[1:3] == (resolution, resolution):
        return images
    channels_first = images.permute(0, 3, 1, 2)
    return transforms.resize(channels_first, [resolution, resolution], antialias=True).permute(0, 2, 3, 1).contiguous()


class PictureDataModule(DataModule):
    """Square pictures, kept as uint8 until they are on the device.

    A subclass says which splits exist and what identifies them, and loads one.

    Args:
        resolution: Height and width, in pixels.
        channels: 1 for grey, 3 for RGB.
        flip: Mirror each training picture left to right with probability 1/2.
        train_limit: Train on this many pictures only; None takes all. The choice is the same for every seed, and a
            smaller limit's pictures are among a larger one's. If there is no test split, the other pictures become it.

    The other arguments are those of `DataModule`.
    """

    def __init__(
        self,
        resolution: int,
        channels: int,
        num_classes: int,
        class_names: tuple[str, ...],
        flip: bool,
        batch_size: int,
        seed: int,
        num_workers: int,
        train_limit: int | None = None,
    ) -> None:
        at_least("resolution", resolution, 1)
        if train_limit is not None:
            at_least("train_limit", train_limit, 1)
        super().__init__((channels, resolution, resolution), num_classes, class_names, batch_size, seed, num_workers)
        self.resolution = resolution
        self.flip = flip
        self.train_limit = train_limit
        self._loaded: dict[Split, Examples] = {}

    def stored_splits(self) -> tuple[Split, ...]:
        """The splits that the dataset itself has, "train" first: both, unless a subclass says otherwise."""
        return ("train", "test")

    def splits(self) -> tuple[Split, ...]:
        """The stored splits, and "test" if it is not stored and `train_limit` leaves pictures over."""
        stored = self.stored_splits()
        return stored if self.train_limit is None or "test" in stored else (*stored, "test")

    @abstractmethod
    def load(self, split: Split) -> Examples:
        """Reads a split that exists. Called once; raises ValueError, naming the file, if the data are bad."""

    def dataset(self, split: Split) -> Examples:
        """One split: uint8 (n, H, W, C) and int64 (n,) for n indices. It is loaded by the first call, then kept."""
        self.require(split)
        if split not in self._loaded:
            if self.train_limit is None or (split == "test" and "test" in self.stored_splits()):
                self._loaded[split] = self.load(split)
            else:
                self._divide(self.train_limit)
        return self._loaded[split]

    def _divide(self, limit: int) -> None:
        """Keeps `limit` of the training pictures; the others become the test split if none is stored."""
        whole = self.load("train")
        if limit >= len(whole):
            raise ValueError(f"train_limit: must be below the {len(whole)} training pictures there are, got {limit}")
        order = torch.randperm(len(whole), generator=keyed_generator("train_limit"))
        self._loaded["train"] = Subset(whole, order[:limit])
        if "test" not in self.stored_splits():
            self._loaded["test"] = Subset(whole, order[limit:])

    def setup(self, stage: str | None = None) -> None:
        """Sets the fingerprint. For a fit it also loads every split, so that bad data show before the first batch."""
        super().setup(stage)
        if self.train_limit is not None:
            self.fingerprint = hashlib.sha256(f"{self.fingerprint} {self.train_limit}".encode()).hexdigest()
        if stage == "fit":
            for split in self.splits():
                self.dataset(split)

    def examples(self, split: Split, indices: Sequence[int]) -> Batch:
        images, labels = super().examples(split, indices)
        return to_float(images), labels

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Turns stored pictures, already on the device, into the contract's batch; floats pass unchanged."""
        x, y = batch
        if x.dtype != torch.uint8:
            return x, y
        if self.flip and self.trainer is not None and self.trainer.training:
            mirrored = self._mirrored(len(x)).to(x.device, non_blocking=True)
            x = torch.where(mirrored[:, None, None, None], x.flip(2), x)
        return to_float(x), y

    def _mirrored(self, count: int) -> Tensor:
        """Which of this rank's pictures to mirror, bool (count,): a function of the seed and the position alone.

        All ranks draw the joint batch and take the share that `OrderedBatches` gives them. So a resumed run mirrors the
        same pictures, on any number of devices.
        """
        rank, world_size = self._rank_and_world_size()
        generator = keyed_generator("flip", self.seed, self._samples_seen())
        return (torch.rand(world_size * count, generator=generator) < 0.5)[rank::world_size]

"""The order of training examples: a function of the seed and of the position, counted in samples."""

import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Sampler


def keyed_generator(*key: int | str) -> torch.Generator:
    """A CPU generator that depends on every part of the key, and on nothing else.

    torch's CPU generator seeds itself with the low 32 bits only, so neighbouring keys must be mixed well first. A hash
    does that, and keeps (1, 23) and (12, 3) apart.
    """
    mixed = hashlib.blake2b(",".join(str(part) for part in key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(mixed, "little"))


@functools.lru_cache(maxsize=1)
def _permutation(seed: int, epoch: int, size: int) -> Tensor:
    """The order of one epoch: (size,) int64. Only the current epoch's is kept."""
    return torch.randperm(size, generator=keyed_generator("order", seed, epoch))


def positions(seed: int, start: int, stop: int, size: int) -> Tensor:
    """The examples at positions [start, stop) of the endless shuffled sequence over `size` examples.

    Position p lies in epoch p // size, and each epoch holds every example exactly once. Returns int64
    (stop - start,), each in [0, size). ValueError if `size` is below 1, or the range is not 0 <= start <= stop.
    """
    if size < 1 or not 0 <= start <= stop:
        raise ValueError(f"positions [{start}, {stop}) over {size} examples: needs 0 <= start <= stop and an example")
    pieces = [torch.empty(0, dtype=torch.int64)]
    while start < stop:
        epoch, offset = divmod(start, size)
        taken = min(stop - start, size - offset)
        pieces.append(_permutation(seed, epoch, size)[offset : offset + taken])
        start += taken
    return torch.cat(pieces)  # a copy: no caller gets the cached permutation itself


@dataclass(eq=False)
class OrderedBatches(Sampler[Tensor]):
    """One rank's share of the endless sequence, as one index tensor per training step.

    The joint batch of a step is the next `joint_batch` positions. Rank r takes every `world_size`-th of them from r on.
    So the k-th micro-batches of all ranks together are the k-th micro-batch of a single process, however a step is
    split. Batches run across the ends of epochs. There is no `__len__`, so Lightning takes it as endless.

    Attributes:
        size: Examples in the dataset.
        seed: Of the order.
        start: Gives the position, in samples over all ranks, at the start of an iteration, so that a second iteration
            of the same loader continues where training is instead of repeating the first.
        joint_batch: Gives the size of the step that begins at a position, over all ranks. It must depend on the
            position alone: batches are drawn ahead of training, and drawn again by a run that resumes.
        rank: This process, in [0, world_size).
        world_size: Processes that share each joint batch.
    """

    size: int
    seed: int
    start: Callable[[], int]
    joint_batch: Callable[[int], int]
    rank: int
    world_size: int

    def __iter__(self) -> Iterator[Tensor]:
        """Yields int64 tensors of shape (joint batch / world_size,). Raises ValueError if ranks cannot share a step."""
        position = self.start()
        while True:
            joint = self.joint_batch(position)
            if joint < 1 or joint % self.world_size:
                raise ValueError(f"a step of {joint} samples cannot be shared by {self.world_size} devices")

            yield positions(self.seed, position, position + joint, self.size)[self.rank :: self.world_size]
            position += joint

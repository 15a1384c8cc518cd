"""The order of training examples, as a function of the seed and of the position counted in samples."""

import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Sampler


def keyed_generator(*key: int | str) -> torch.Generator:
    """A CPU generator that depends on every part of the key, and on nothing else.

    torch's CPU generator seeds itself with the low 32 bits only, so that neighbouring keys must be mixed well first;
    a hash does that, and keeps (1, 23) and (12, 3) apart.
    """
    mixed = hashlib.blake2b(",".join(str(part) for part in key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(mixed, "little"))


@functools.lru_cache(maxsize=1)
def _permutation(seed: int, epoch: int, size: int) -> Tensor:
    """The order of one epoch: (size,) int64. Only the current epoch's is kept; a change of epoch draws anew."""
    return torch.randperm(size, generator=keyed_generator("order", seed, epoch))


def positions(seed: int, start: int, stop: int, size: int) -> Tensor:
    """The examples at positions [start, stop) of the endless shuffled sequence over `size` examples.

    Position p lies in epoch p // size, and each epoch holds every example exactly once.

    Returns:
        int64 of shape (stop - start,), each in [0, size).

    Raises:
        ValueError: `size` is below 1, or the range is not 0 <= start <= stop.
    """
    if size < 1 or not 0 <= start <= stop:
        raise ValueError(f"positions [{start}, {stop}) over {size} examples: needs 0 <= start <= stop and an example")
    pieces = [torch.empty(0, dtype=torch.int64)]
    while start < stop:
        epoch, offset = divmod(start, size)
        taken = min(stop - start, size - offset)
        pieces.append(_permutation(seed, epoch, size)[offset : offset + taken])
        start += taken
    return torch.cat(pieces)  # a copy: the cached permutation is never handed out


@dataclass(eq=False)
class OrderedBatches(Sampler[Tensor]):
    """One rank's share of the endless sequence, as one index tensor a global step.

    The joint batch of a step is the next positions, as many as `joint_batch` says for the first; rank r takes every
    `world_size`-th of them from r on. So the k-th micro-batches of all ranks together are the k-th micro-batch of a
    single process, however a step is split. Batches run across the ends of epochs.

    It has no length, by which Lightning takes it as endless.

    Attributes:
        size: Examples in the data set.
        seed: Of the order.
        start: Asked for the position, in samples over all ranks, whenever an iteration begins, so that a second
            iteration of the same loader goes on where training stands instead of repeating the first.
        joint_batch: Asked for the size of the step that begins at a position, over all ranks. The position alone must
            decide it: batches are drawn ahead of training, and anew by a run that resumes.
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
        """Yields int64 tensors of shape (joint batch / world_size,), without end.

        Raises:
            ValueError: A joint batch does not divide by the ranks.
        """
        position = self.start()
        while True:
            joint = self.joint_batch(position)
            if joint < 1 or joint % self.world_size:
                raise ValueError(f"a step of {joint} samples cannot be shared out over {self.world_size} devices")
            yield positions(self.seed, position, position + joint, self.size)[self.rank :: self.world_size]
            position += joint

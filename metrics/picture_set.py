"""Pictures that are read by index, from any source."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor


def drawn(size: int, count: int) -> list[int]:
    """`count` of `size` places, ascending, drawn without replacement with a fixed seed; all if there are fewer."""
    if count >= size:
        return list(range(size))
    return sorted(np.random.RandomState(0).permutation(size)[:count].tolist())


@dataclass(frozen=True, eq=False)
class PictureSet:
    """Pictures that are read by index, from any source.

    Attributes:
        name: As messages call it.
        fingerprint: Changes with the data.
        count: Number of pictures.
        read: The pictures at these indices, uint8 (n, C, H, W) on any device, and their labels, int64 (n,), or None.
        modes: Gives the mode of each of some pictures, if modes are known; -1 for none.
        num_modes: Number of modes, in equal numbers; 0 if they are unknown.
        num_classes: Number of classes; 0 if there are no labels.
        part: The part of the data, in words: a split, a number drawn at random.
    """

    name: str
    fingerprint: str
    count: int
    read: Callable[[Sequence[int]], tuple[Tensor, Tensor | None]]
    modes: Callable[[Tensor], Tensor] | None = None
    num_modes: int = 0
    num_classes: int = 0
    part: str = ""

    @property
    def cache_key(self) -> str:
        """Changes with the pictures."""
        return f"{self.fingerprint} {self.part}".strip()

    def subset(self, count: int) -> "PictureSet":
        """`count` of them, drawn without replacement with a fixed seed, because data may be sorted by class."""
        if count >= self.count:
            return self
        chosen = drawn(self.count, count)
        return replace(
            self,
            part=f"{self.part} {count} at random".strip(),
            count=count,
            read=lambda indices: self.read([chosen[index] for index in indices]),
        )

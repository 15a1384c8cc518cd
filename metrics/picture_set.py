"""Pictures that are asked for by index, wherever they come from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor


def drawn(size: int, count: int) -> list[int]:
    """`count` of `size` places, ascending, drawn without replacement and with a fixed seed; all if there are fewer."""
    if count >= size:
        return list(range(size))
    return sorted(np.random.RandomState(0).permutation(size)[:count].tolist())


@dataclass(frozen=True, eq=False)
class PictureSet:
    """Pictures that can be asked for by index, wherever they come from.

    Attributes:
        name: What messages call it.
        fingerprint: Of the data that they are of: changes with the data.
        count: How many there are.
        read: The pictures of these indices, uint8 (n, C, H, W) on any device, and their labels, int64 (n,), or None.
        modes: The mode that each of some pictures shows, where modes are known; -1 for none.
        num_modes: How many modes there are, in equal numbers; 0 where they are not known.
        num_classes: Of the labels; 0 where there are none.
        part: Which of the data they are, in words: a split, a number drawn at random.
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
        """So many of them, drawn without replacement and with a fixed seed: data may lie sorted by class."""
        if count >= self.count:
            return self
        chosen = drawn(self.count, count)
        return replace(
            self,
            part=f"{self.part} {count} at random".strip(),
            count=count,
            read=lambda indices: self.read([chosen[index] for index in indices]),
        )

"""What ranks tell one another."""

from typing import TypeVar

import numpy as np
import torch
from lightning import Trainer

from metrics.row_store import RowStore
from metrics.sample_statistics import SampleStatistics

T = TypeVar("T")

ASK_EVERY = 16
"""Batches between two questions to the other ranks: each costs a round trip, and stopping can wait that long."""
ROWS_AT_ONCE = 4096
"""Features that each rank sends at once, so that not all of them lie in memory."""


def any_rank(trainer: Trainer, wish: bool, batch_idx: int) -> bool:
    """Whether any rank wishes so, the same answer on each; of several, never but in one batch of `ASK_EVERY`."""
    if trainer.world_size == 1:
        return wish
    return batch_idx % ASK_EVERY == 0 and bool(trainer.strategy.reduce_boolean_decision(wish, all=False))


def gathered(trainer: Trainer, mine: T) -> list[T]:
    """What each rank gives, in their order, the same on all of them; each must give something at the same place."""
    return [trainer.strategy.broadcast(mine, rank) for rank in range(trainer.world_size)]


def brought_together(trainer: Trainer, seen: SampleStatistics) -> bool:
    """Brings what all ranks have observed to rank 0, in the order of the samples. True there, False elsewhere."""
    if trainer.world_size == 1:
        return True
    parts = gathered(trainer, seen.part())
    joint = None
    if seen.store is not None:
        joint = RowStore(seen.total, seen.extractor.dimension, seen.folder) if trainer.is_global_zero else None
        for first in range(0, max(len(part.share) for part in parts), ROWS_AT_ONCE):
            chunks = gathered(trainer, torch.from_numpy(np.array(seen.rows[first : first + ROWS_AT_ONCE])))
            if joint is not None:
                for part, rows in zip(parts, chunks, strict=True):
                    joint.write(part.share.start + first, rows)
    if trainer.is_global_zero:
        seen.merge(parts[1:], joint)
    return trainer.is_global_zero

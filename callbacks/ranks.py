"""Communication between ranks."""

from typing import TypeVar

import numpy as np
import torch
from lightning import Trainer

from metrics.row_store import RowStore
from metrics.sample_statistics import SampleStatistics

T = TypeVar("T")

ASK_EVERY = 16
"""Batches between two questions to other ranks: each costs a round trip, and stopping can wait that long."""
ROWS_AT_ONCE = 4096
"""Features that each rank sends at once, to limit memory."""


def any_rank(trainer: Trainer, wish: bool, batch_idx: int) -> bool:
    """Whether any rank wishes so, the same on all ranks; several ranks ask only every `ASK_EVERY` batches."""
    if trainer.world_size == 1:
        return wish
    return batch_idx % ASK_EVERY == 0 and bool(trainer.strategy.reduce_boolean_decision(wish, all=False))


def gathered(trainer: Trainer, mine: T) -> list[T]:
    """The values of all ranks, in order, on every rank; all must call it at the same place."""
    return [trainer.strategy.broadcast(mine, rank) for rank in range(trainer.world_size)]


def brought_together(trainer: Trainer, seen: SampleStatistics) -> bool:
    """Merges the statistics of all ranks on rank 0, in the order of samples. True there, False elsewhere."""
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

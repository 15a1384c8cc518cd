"""Seconds by phase of a training step, for the benchmarks beside this file."""

import contextlib
import time
from collections.abc import Iterator

import torch
from torch.utils.data import IterableDataset

from models.base import Batch


class Clock:
    """Adds up the time of each phase; waits for the device wherever one begins or ends.

    A phase within a phase is counted for itself alone.

    Args:
        device: what is waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self._turn()
        self._open.append(phase)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def _turn(self) -> None:
        """Counts the time since the last turn for the innermost phase."""
        now = self.now()
        if self._open:
            self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now

    def now(self) -> float:
        """Seconds, once the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def read(self) -> dict[str, float]:
        """What was added up since the last call."""
        seconds, self.seconds = self.seconds, {}
        return seconds


class SameBatch(IterableDataset[Batch]):
    """One batch again and again, where it is not loading that is measured."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self.batch

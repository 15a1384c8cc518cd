"""Seconds by phase of a training step, for the benchmarks beside this file."""

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch.utils.data import IterableDataset

from models.training.base import Batch


class Innermost(ABC):
    """Counts something for each phase; a phase within a phase is counted for itself alone."""

    def __init__(self) -> None:
        self._open: list[str] = []

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
        self.turn(self._open[-1] if self._open else None)

    @abstractmethod
    def turn(self, phase: str | None) -> None:
        """Counts what was since the last turn for a phase, or for none, and begins anew."""


class Clock(Innermost):
    """Adds up the time of each phase; waits for the device wherever one begins or ends.

    Args:
        device: what is waited for.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.seconds: dict[str, float] = {}
        self._since = 0.0

    def turn(self, phase: str | None) -> None:
        now = self.now()
        if phase is not None:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._since
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

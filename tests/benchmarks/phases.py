"""Times a training step by phase, for the benchmarks in this folder."""

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch.utils.data import IterableDataset

from models.training.base import Batch


class Innermost(ABC):
    """Measures something by phase. A nested phase does not count towards the outer one."""

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
        """Adds what happened since the last turn to a phase, or to none, and starts again."""


class Clock(Innermost):
    """Adds up the time of each phase; synchronises the device when a phase begins or ends.

    Args:
        device: the device to synchronise.
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
        """The time in seconds, after the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def read(self) -> dict[str, float]:
        """The seconds by phase since the last call."""
        seconds, self.seconds = self.seconds, {}
        return seconds


class SameBatch(IterableDataset[Batch]):
    """The same batch again and again, so that loading is not measured."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self.batch

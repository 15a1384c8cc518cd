"""Settings that change while a model trains, as functions of the samples seen (in kimg: thousand samples)."""

import math
from abc import ABC, abstractmethod

from models.part import Part


class Schedule(Part, ABC):
    """A number that depends on how far training has come."""

    @abstractmethod
    def at(self, kimg: float) -> float:
        """The value after `kimg` thousand training samples."""


class Linear(Schedule):
    """From `start` to `end` in a straight line over `kimg` thousand samples, constant afterwards."""

    def __init__(self, start: float, end: float, kimg: float) -> None:
        if kimg <= 0:
            raise ValueError(f"kimg of a schedule must be positive, not {kimg}")
        self.start, self.end, self.kimg = start, end, kimg

    def at(self, kimg: float) -> float:
        progress = min(max(kimg / self.kimg, 0.0), 1.0)
        return self.start + (self.end - self.start) * progress


class Cosine(Schedule):
    """From `start` to `end` along half a cosine (Loshchilov & Hutter 2017, eq. 5, without restarts), then constant."""

    def __init__(self, start: float, end: float, kimg: float) -> None:
        if kimg <= 0:
            raise ValueError(f"kimg of a schedule must be positive, not {kimg}")
        self.start, self.end, self.kimg = start, end, kimg

    def at(self, kimg: float) -> float:
        progress = min(max(kimg / self.kimg, 0.0), 1.0)
        return self.end + 0.5 * (self.start - self.end) * (1.0 + math.cos(math.pi * progress))


def value_at(setting: float | Schedule, samples_seen: int) -> float:
    """The value of a setting that may be a plain number or a schedule, after `samples_seen` training samples."""
    return setting.at(samples_seen / 1000) if isinstance(setting, Schedule) else setting

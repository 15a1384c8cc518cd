"""Settings that change during training, as functions of the samples seen (in kimg: thousand samples)."""

import math
from abc import ABC, abstractmethod

from settings.configurable import Configurable


class Schedule(Configurable, ABC):
    """A number that depends on the progress of training."""

    @abstractmethod
    def at(self, kimg: float) -> float:
        """The value after `kimg` thousand training samples."""


class Ramp(Schedule, ABC):
    """From `start` to `end` within `kimg` thousand samples, constant afterwards."""

    def __init__(self, start: float, end: float, kimg: float) -> None:
        if kimg <= 0:
            raise ValueError(f"kimg of a schedule must be positive, not {kimg}")
        self.start, self.end, self.kimg = start, end, kimg

    def progress(self, kimg: float) -> float:
        """The share of the ramp that is done, from 0 to 1."""
        return min(max(kimg / self.kimg, 0.0), 1.0)


class Linear(Ramp):
    """A straight line."""

    def at(self, kimg: float) -> float:
        return self.start + (self.end - self.start) * self.progress(kimg)


class Cosine(Ramp):
    """Half a cosine (Loshchilov & Hutter 2017, eq. 5, without restarts)."""

    def at(self, kimg: float) -> float:
        return self.end + 0.5 * (self.start - self.end) * (1.0 + math.cos(math.pi * self.progress(kimg)))


def value_at(setting: float | Schedule, samples_seen: int) -> float:
    """The value of a setting, which may be a number or a schedule, after `samples_seen` training samples."""
    return setting.at(samples_seen / 1000) if isinstance(setting, Schedule) else setting

"""Measures the speed of training, and the share of time spent waiting for data."""

import contextlib
import time
from collections.abc import Iterator

from lightning import Callback, LightningModule, Trainer

from callbacks.lookup import model_of
from callbacks.run import run_of
from records.run import Speed
from settings.phases import OUTSIDE_STEPS


class Throughput(Callback):
    """Reports samples_per_s, s_per_kimg and data_wait (share of training time), over all ranks.

    Evaluations and checkpoints are excluded, so that runs with different intervals compare. The run's own `seconds`
    includes everything.

    Args:
        every_s: seconds between reports.
        warmup_batches: first batches to skip, with compilation, allocation and caching.
    """

    def __init__(self, every_s: float = 10.0, warmup_batches: int = 5) -> None:
        self.every_s, self.warmup_batches = every_s, warmup_batches
        self._skipped = self._waited = self._paused = 0.0
        self._samples = self._start = self._ended = 0.0
        self._total_samples = self._total_seconds = 0.0
        self._depth = 0
        self._batches = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model_of(pl_module).phase_observers.append(self._observe)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._batches = 0
        self._begin(model_of(pl_module).samples_seen)

    @contextlib.contextmanager
    def _observe(self, phase: str) -> Iterator[None]:
        """Stops the clock outside of training; nested phases count once."""
        if phase not in OUTSIDE_STEPS:
            yield
            return
        self._depth += 1
        start = time.perf_counter()
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._paused += time.perf_counter() - start

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        # Between two batches lie the loader and other callbacks, whose evaluations are paused time.
        self._waited += max(time.perf_counter() - self._ended - (self._paused - self._skipped), 0.0)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        seen = model_of(pl_module).samples_seen
        self._batches += 1
        if self._batches == self.warmup_batches:
            self._begin(seen)
        elif self._batches > self.warmup_batches and time.perf_counter() - self._start - self._paused >= self.every_s:
            self._report(trainer, seen)
        self._ended, self._skipped = time.perf_counter(), self._paused

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._batches > self.warmup_batches:
            self._report(trainer, model_of(pl_module).samples_seen)
        if self._total_samples:
            run_of(trainer).record.throughput = Speed(
                samples_per_s=round(self._total_samples / self._total_seconds, 2),
                s_per_kimg=round(1000 * self._total_seconds / self._total_samples, 3),
            )
            run_of(trainer).save(trainer)

    def _begin(self, samples_seen: int) -> None:
        self._waited = self._paused = self._skipped = 0.0
        self._samples = samples_seen
        self._start = self._ended = time.perf_counter()

    def _report(self, trainer: Trainer, samples_seen: int) -> None:
        seconds = time.perf_counter() - self._start - self._paused
        samples = samples_seen - self._samples
        if samples and seconds > 0:
            self._total_samples += samples
            self._total_seconds += seconds
            values = {
                "samples_per_s": samples / seconds,
                "s_per_kimg": 1000 * seconds / samples,
                "data_wait": self._waited / seconds,
            }
            run_of(trainer).write(trainer, values)
        self._begin(samples_seen)

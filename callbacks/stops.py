"""Ends a fit gracefully on Ctrl-C and SIGTERM: it finishes the batch, saves, and reports the signal as exit code."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

from lightning import Callback, LightningModule, Trainer

from callbacks.lookup import find
from callbacks.ranks import any_rank


class Stops(Callback):
    """Turns the first SIGINT or SIGTERM into a stop after the current batch; a second one ends the process at once.

    Lightning's own handlers raise in the middle of a step, and exit with 1 and 0.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._trainer: Trainer | None = None

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number, as in a shell; 0 without a signal."""
        return 0 if self.received is None else 128 + self.received

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replaces Lightning's handlers, which are set by now, during training."""
        self._trainer = trainer
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)
        if trainer.received_sigterm:  # before, for example while data was read
            self._handle(signal.SIGTERM, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = signal.Signals(number)
        said = f"\n{self.received.name}: stopping after this batch; repeat to stop at once"
        print(said, file=sys.stderr, flush=True)
        if self._trainer is not None and self._trainer.world_size == 1:
            self._trainer.should_stop = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if trainer.world_size > 1:
            trainer.should_stop |= any_rank(trainer, self.received is not None, batch_idx)

    @contextlib.contextmanager
    def handling(self) -> Iterator[None]:
        """Restores the previous signal handlers after a fit, whatever happens."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def interrupted(trainer: Trainer) -> bool:
    """Whether a signal has asked the fit to stop."""
    stops = find(trainer, Stops)
    return stops is not None and stops.received is not None

"""Schedules callbacks in samples seen: at the same points whatever the batch size or the number of devices."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

from lightning import Callback, LightningModule, Trainer

from callbacks.budget import budget_of
from callbacks.lookup import model_of
from callbacks.stops import interrupted
from models.training.base import GenerativeModel
from records.figures import Figure


class AtIntervals(Callback):
    """A callback that is due whenever training passes a multiple of its interval.

    Args:
        every_kimg: thousand samples in an interval; if left out, a tenth of the budget, or 50 without a budget.
    """

    always: ClassVar[bool] = True
    """Whether it is also due if `every_kimg` is left out."""

    def __init__(self, every_kimg: float | None = None) -> None:
        if every_kimg is not None and every_kimg <= 0:
            raise ValueError(f"every_kimg must be positive, not {every_kimg}")
        self.every_kimg = every_kimg
        self._before = 0
        self._done_at = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._before = model_of(pl_module).samples_seen

    def interval(self, trainer: Trainer) -> float:
        """Samples in an interval; infinite if it is never due."""
        if self.every_kimg is None and not self.always:
            return math.inf
        return 1000 * (self.every_kimg or (budget_of(trainer).kimg or 500.0) / 10)

    def due(self, trainer: Trainer, samples_seen: int) -> bool:
        """Whether a multiple lies after the previous call's count, and not after this one's."""
        interval, before = self.interval(trainer), self._before
        self._before = samples_seen
        return int(samples_seen // interval) > int(before // interval)


class Shows(AtIntervals, ABC):
    """Shows samples of a model: before the first batch, at intervals and at the end of a fit."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if model_of(pl_module).samples_seen == 0:
            self._show(trainer, model_of(pl_module))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if self.due(trainer, model_of(pl_module).samples_seen):
            self._show(trainer, model_of(pl_module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._done_at != model_of(pl_module).samples_seen:
            self._show(trainer, model_of(pl_module))

    def _show(self, trainer: Trainer, model: GenerativeModel) -> None:
        self._done_at = model.samples_seen
        if trainer.is_global_zero:
            self.show(trainer, model)

    @abstractmethod
    def show(self, trainer: Trainer, model: GenerativeModel) -> None:
        """Draws and writes, on rank 0."""


class Measures(AtIntervals, ABC):
    """Measures a model: at intervals, at the end of a fit, and once in `validate` and `test`."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        model = model_of(pl_module)
        if self.due(trainer, model.samples_seen) or budget_of(trainer).reached(model.samples_seen):
            for name, figure in self._measure(trainer, model).items():
                model.log(name, figure.value, logger=False)  # for ModelCheckpoint(monitor=...)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures once more, unless a signal ended the fit: then the process should exit soon."""
        if not interrupted(trainer):
            self._measure(trainer, model_of(pl_module))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._measure(trainer, model_of(pl_module))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._measure(trainer, model_of(pl_module), testing=True)

    def _measure(self, trainer: Trainer, model: GenerativeModel, testing: bool = False) -> dict[str, Figure]:
        if not self.applies(model) or self._done_at == model.samples_seen:
            return {}
        self._done_at = model.samples_seen
        return self.measure(trainer, model, testing)

    @abstractmethod
    def applies(self, model: GenerativeModel) -> bool:
        """Whether the model can be measured."""

    @abstractmethod
    def measure(self, trainer: Trainer, model: GenerativeModel, testing: bool) -> dict[str, Figure]:
        """Measures and reports, on the test split if `testing`; returns nothing if a signal interrupts it."""

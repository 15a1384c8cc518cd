"""When something is due, in samples seen: the same points whatever the batch size or the number of devices."""

import math
from abc import ABC, abstractmethod

from lightning import Callback, LightningModule, Trainer

from callbacks.budget import budget_of
from callbacks.lookup import model_of
from callbacks.stops import interrupted
from models.training.base import GenerativeModel
from records.figures import Figure


class Interval:
    """True once each time `samples_seen` passes a multiple of `kimg` thousand samples; never where that is None."""

    def __init__(self, kimg: float | None) -> None:
        if kimg is not None and kimg <= 0:
            raise ValueError(f"every_kimg must be positive, not {kimg}")
        self.samples = math.inf if kimg is None else kimg * 1000
        self._before = 0

    def start(self, samples_seen: int) -> None:
        """Where training starts or resumes."""
        self._before = samples_seen

    def passed(self, samples_seen: int) -> bool:
        """Whether a multiple lies between the last call's count (exclusive) and this one's (inclusive)."""
        before, self._before = self._before, samples_seen
        return int(samples_seen // self.samples) > int(before // self.samples)


class AtIntervals(Callback):
    """A callback that is due whenever another `every_kimg` thousand samples were seen.

    Args:
        every_kimg: thousand samples between two times; a tenth of the budget where left out (50 without one).
    """

    def __init__(self, every_kimg: float | None) -> None:
        self.every_kimg = every_kimg
        self._interval = Interval(every_kimg or 50.0)
        self._done_at = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._interval = Interval(self.every_kimg or (budget_of(trainer).kimg or 500.0) / 10)
        self._interval.start(model_of(pl_module).samples_seen)


class Shows(AtIntervals, ABC):
    """Shows what a model makes: before the first batch, at intervals and at the end of a fit."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if model_of(pl_module).samples_seen == 0:
            self._show(trainer, model_of(pl_module))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if self._interval.passed(model_of(pl_module).samples_seen):
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
        """Draws and writes; called on rank 0."""


class Measures(AtIntervals, ABC):
    """Measures a model: at intervals, at the end of a fit, and once in `validate` and `test`."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        model = model_of(pl_module)
        if self._interval.passed(model.samples_seen) or budget_of(trainer).reached(model.samples_seen):
            for name, figure in self._measure(trainer, model).items():
                model.log(name, figure.value, logger=False)  # for ModelCheckpoint(monitor=...)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last figures, unless a signal ended the fit: then what counts is to be gone soon."""
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
        """Whether there is something to measure."""

    @abstractmethod
    def measure(self, trainer: Trainer, model: GenerativeModel, testing: bool) -> dict[str, Figure]:
        """Measures and reports, in `test` where `testing`; nothing if a signal cuts it short."""

"""Ends a fit after a number of samples or hours."""

from lightning import Callback, LightningModule, Trainer

from callbacks.lookup import find, model_of
from callbacks.ranks import any_rank
from callbacks.run import run_of


class Budget(Callback):
    """Stops a fit when either limit is reached. A resumed run counts what it used before.

    Args:
        kimg: thousand training samples, over all devices.
        hours: wall time of the run, including evaluations.
    """

    def __init__(self, kimg: float | None = None, hours: float | None = None) -> None:
        for name, limit in (("kimg", kimg), ("hours", hours)):
            if limit is not None and limit <= 0:
                raise ValueError(f"budget.{name} must be positive, not {limit}")
        self.kimg, self.hours = kimg, hours

    def reached(self, samples_seen: int) -> bool:
        """Whether the sample budget is used up."""
        return self.kimg is not None and samples_seen >= self.kimg * 1000

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seen = model_of(pl_module).samples_seen
        if self.reached(seen):
            raise ValueError(
                f"this run has already seen {seen / 1000:g} kimg, its whole budget: raise --budget.kimg to continue"
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if self.reached(model_of(pl_module).samples_seen):
            trainer.should_stop = True
        elif self.hours is not None:
            trainer.should_stop |= any_rank(trainer, run_of(trainer).seconds >= self.hours * 3600, batch_idx)


def budget_of(trainer: Trainer) -> Budget:
    """The trainer's budget, or an unlimited one."""
    return find(trainer, Budget) or Budget()

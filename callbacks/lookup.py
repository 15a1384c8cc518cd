"""Finds the model, data and callbacks of a trainer."""

from typing import Any, TypeVar

from lightning import Callback, LightningModule, Trainer

from models.training.base import GenerativeModel

C = TypeVar("C", bound=Callback)


def model_of(module: LightningModule) -> GenerativeModel:
    """The module as a GenerativeModel. Raises TypeError if it is not one."""
    if not isinstance(module, GenerativeModel):
        raise TypeError(f"{type(module).__name__} is not a models.training.base.GenerativeModel")
    return module


def data_of(trainer: Trainer) -> Any:  # noqa: ANN401 - callbacks know a datamodule by its attributes alone
    """The trainer's datamodule, or None."""
    return trainer.datamodule  # type: ignore[attr-defined]


def find(trainer: Trainer, kind: type[C]) -> C | None:
    """The trainer's first callback of this class, or None."""
    return next((callback for callback in trainer.callbacks if isinstance(callback, kind)), None)  # type: ignore[attr-defined]

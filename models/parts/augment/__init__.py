"""Augmentations of the discriminator's input."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from settings.configurable import Configurable


class Augmentation(Configurable, ABC):
    """One differentiable callable, applied alike to real and generated samples, in both players' steps.

    An adaptive one overrides the methods below the call: it reads the discriminator's logits, adapts after each
    training step, and saves its state in checkpoints.
    """

    @abstractmethod
    def __call__(self, x: Tensor, samples_seen: int) -> Tensor:
        """Augments samples (N, *data_shape); the shape stays the same."""

    @property
    def reads_signs(self) -> bool:
        """Whether it adapts to the signs of logits, which have no meaning under some losses."""
        return False

    def judged(self, real_logits: Tensor) -> None:
        """Called in each discriminator step with this rank's logits of augmented real samples, (N,)."""

    def adapt(self, step: int, samples_seen: int, over_ranks: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Called on every rank after each training step, to adapt alike on all; returns the values to log.

        Args:
            step: the training step just finished, counted from 1.
            samples_seen: including this step's.
            over_ranks: sums a tensor on the device over the ranks, in place. All ranks must call it, or none.
        """
        return {}

    def state(self) -> dict[str, float]:
        """The state to save in a checkpoint besides the constructor's arguments; the same on every rank."""
        return {}

    def load_state(self, state: dict[str, float]) -> None:
        """Restores what `state` returned; empty if the checkpoint holds none. Raises ValueError if it does not fit."""

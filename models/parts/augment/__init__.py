"""Augmentations of what a discriminator sees."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from settings.configurable import Configurable


class Augmentation(Configurable, ABC):
    """One differentiable callable, applied alike to real and generated samples, in both players' steps.

    One that adapts itself overrides the methods below the call: it hears the discriminator's judgement, adjusts itself
    after each training step, and its state is kept in checkpoints.
    """

    @abstractmethod
    def __call__(self, x: Tensor, samples_seen: int) -> Tensor:
        """Samples (N, *data_shape) to augmented samples of the same shape."""

    @property
    def reads_signs(self) -> bool:
        """Whether it adapts to the signs of logits, which not every loss gives a meaning."""
        return False

    def judged(self, real_logits: Tensor) -> None:
        """Called in each discriminator step with its logits of augmented real samples, (N,): this rank's."""

    def adapt(self, step: int, samples_seen: int, over_ranks: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Called on every rank after each training step, to adjust itself alike on all; gives what is to be reported.

        Args:
            step: the training step just finished, counted from 1.
            samples_seen: with this step's.
            over_ranks: sums a tensor on the device over the ranks, in place; to be called on all of them or on none.
        """
        return {}

    def state(self) -> dict[str, float]:
        """What a checkpoint must hold besides the constructor's arguments; the same on every rank."""
        return {}

    def load_state(self, state: dict[str, float]) -> None:
        """Goes on from what `state` gave; empty for a checkpoint that holds none.

        Raises:
            ValueError: if it is not the state of such an augmentation.
        """

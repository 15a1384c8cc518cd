"""Augmentations of what a discriminator sees."""

from abc import ABC, abstractmethod

from torch import Tensor

from models.part import Part


class Augmentation(Part, ABC):
    """One differentiable callable, applied alike to real and generated samples, in both players' steps."""

    @abstractmethod
    def __call__(self, x: Tensor, samples_seen: int) -> Tensor:
        """Samples (N, *data_shape) to augmented samples of the same shape."""

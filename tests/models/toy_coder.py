"""A model with codes that needs no training: a patch's mean brightness, in steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.training.base import GenerativeModel
from settings.sampling import SamplerSettings

CODES = 8


class ToyCoder(GenerativeModel):
    """The code of each `patch` x `patch` square is the nearest of 8 values, which are weights and so in checkpoints."""

    def __init__(self, data_shape: Sequence[int] = (1, 8, 8), num_classes: int = 0, patch: int = 4) -> None:
        super().__init__(data_shape, num_classes)
        self.patch = patch
        self.values = nn.Parameter(torch.linspace(-1, 1, CODES))

    def networks(self) -> dict[str, nn.Module]:
        return {}

    @property
    def code_shape(self) -> tuple[int, ...]:
        return self.data_shape[1] // self.patch, self.data_shape[2] // self.patch

    @property
    def num_codes(self) -> int:
        return CODES

    def to_codes(self, x: Tensor, *, settings: Any = None) -> Tensor:  # noqa: ANN401
        assert not self.training, "a frozen model encodes in evaluation mode"
        means = F.avg_pool2d(x.mean(1), self.patch)
        return (means[..., None] - self.values).abs().argmin(-1)

    def from_codes(self, codes: Tensor, *, settings: Any = None) -> Tensor:  # noqa: ANN401
        grey = self.values[codes].repeat_interleave(self.patch, 1).repeat_interleave(self.patch, 2)
        return grey[:, None].expand(-1, *self.data_shape)

    def generate(
        self, generators: Sequence[torch.Generator], labels: Tensor, settings: SamplerSettings
    ) -> Tensor:  # pragma: no cover - priors draw the codes
        raise NotImplementedError


def save_model(model: GenerativeModel, path: Path) -> None:
    """Writes a checkpoint of a model that no Trainer has seen."""
    content: dict[str, Any] = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(content)
    torch.save(content, path)

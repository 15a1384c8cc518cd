"""A model whose likelihood is known by hand: every value of a picture for itself, 256 logits each."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from media.pictures import from_levels, to_levels
from models.training.capabilities import Encodes, HasLikelihood
from models.training.single_loss import SingleLoss
from settings.sampling import SamplerSettings
from settings.training import Optimization


class Logits(nn.Module):
    """(D, 256), zero at first: all bytes are equally probable."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(values, 256))


class PixelHistogram(SingleLoss, Encodes, HasLikelihood):
    """Samples of independent values; "encodes" a picture as itself, brightened or not.

    Args:
        data_shape: (C, H, W).
        num_classes: not used.
        brighter: what `reconstruct` adds, of 255.
        samples: whether it can sample.
        optimization: how it is trained.
    """

    likelihood_kind: ClassVar[str] = "exact"

    def __init__(
        self,
        data_shape: Sequence[int],
        num_classes: int = 0,
        brighter: int = 0,
        samples: bool = True,
        optimization: Optimization | None = None,
    ) -> None:
        optimization = Optimization(lr=0.1) if optimization is None else optimization
        super().__init__(data_shape, num_classes, Logits(math.prod(data_shape)), optimization)
        self.brighter, self.samples = brighter, samples

    @property
    def why_no_samples(self) -> str | None:
        return None if self.samples else "this histogram may not sample: set samples"

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        return -self._log_prob(x)

    def _log_prob(self, x: Tensor) -> Tensor:
        table = self.network.logits.log_softmax(1)
        assert isinstance(table, Tensor)
        return table.expand(len(x), -1, -1).gather(2, to_levels(x).flatten(1)[..., None]).sum((1, 2))

    def log_likelihood(self, x: Tensor, labels: Tensor, generators: Sequence[torch.Generator], settings: Any) -> Tensor:  # noqa: ANN401
        return self._log_prob(x)

    def generate(self, generators: Sequence[torch.Generator], labels: Tensor, settings: SamplerSettings) -> Tensor:
        chances = self.network.logits.softmax(1)
        drawn = [torch.multinomial(chances, 1, generator=generator) for generator in generators]
        return from_levels(torch.stack(drawn)).view(-1, *self.data_shape)

    def to_latents(self, x: Tensor, labels: Tensor, settings: SamplerSettings) -> Tensor:
        return x

    def decode(self, latents: Tensor, labels: Tensor | None = None, *, settings: Any = None) -> Tensor:  # noqa: ANN401
        return latents + self.brighter / 127.5

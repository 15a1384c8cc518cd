"""The exponential moving average of a network's weights, kept in the model so that a checkpoint samples by itself."""

import copy

import torch
from torch import nn


def decay_for(
    batch: int, samples_seen: int, halflife_kimg: float, rampup: float | None = None, start_kimg: float = 0.0
) -> float:
    """The share of the old average that one update keeps (Karras et al. 2020a, appendix; StyleGAN2-ADA's `ema_kimg`).

    Args:
        batch: samples, over all ranks, in this update.
        samples_seen: training samples consumed so far.
        halflife_kimg: thousand samples after which an old weight's share has halved; 0 keeps nothing.
        rampup: limits the half-life to this share of the samples seen, so that the start is soon forgotten.
        start_kimg: keep nothing until this many thousand samples, the update's included, were seen. "From step n" of
            Brock et al.'s code, whose first step is 1, is n x (samples per step) / 1000.
    """
    if samples_seen + batch < start_kimg * 1000:
        return 0.0
    halflife = halflife_kimg * 1000
    if rampup is not None:
        halflife = min(halflife, samples_seen * rampup)
    return 0.5 ** (batch / max(halflife, 1e-8))


class WeightAverage(nn.Module):
    """A frozen copy of `source` whose parameters follow it slowly. Buffers are copied, not averaged.

    Batch norms hold the source's statistics, unless sampling re-estimates them. Spectral norms hold the state of the
    source's power iteration; one more iteration in each pass finds the averaged weight's singular value.
    """

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(source).requires_grad_(False).eval()
        self._source = (source,)  # a tuple, so that nn.Module does not register it

    def train(self, mode: bool = True) -> "WeightAverage":
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """average = decay * average + (1 - decay) * source."""
        (source,) = self._source
        torch._foreach_lerp_(tuple(self.module.parameters()), tuple(source.parameters()), 1.0 - decay)
        for mine, theirs in zip(self.module.buffers(), source.buffers(), strict=True):
            mine.copy_(theirs)

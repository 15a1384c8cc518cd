"""Mode coverage, for data drawn by formula, whose modes are known."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metrics.metric import Context, Metric
from records.figures import Direction, Figure

if TYPE_CHECKING:
    from features.extractors import Extractor
    from metrics.real_statistics import RealStatistics
    from metrics.sample_statistics import SampleStatistics


class Modes(Metric):
    """How many modes of the data the samples show, and how evenly."""

    name = "modes"
    needs = frozenset({"modes"})

    def directions(self, extractor: "Extractor") -> dict[str, Direction]:
        return {"modes_covered": "higher", "modes_kl": "lower", "modes_unrecognised": "lower"}

    def unavailable(self, context: Context) -> str | None:
        known = context.real is not None and context.real.modes is not None
        return None if known else "the modes of these data are not known"

    def figures(self, real: "RealStatistics", fake: "SampleStatistics") -> dict[str, Figure]:
        count = real.pictures.num_modes
        coverage = mode_coverage(torch.cat(fake.modes), torch.ones(count))
        values = (coverage.covered, coverage.divergence, coverage.unrecognised)
        directions = self.directions(fake.extractor).items()
        return {
            name: Figure(value, better, None, {"modes": count})
            for (name, better), value in zip(directions, values, strict=True)
            if value is not None
        }


@dataclass(frozen=True)
class ModeCoverage:
    """How a model distributes its samples over known modes."""

    covered: float
    """Share of the modes that at least one sample shows, in [0, 1]."""
    divergence: float | None
    """KL(samples ‖ data) of the frequencies among recognised samples, in nats: 0 if they are right, None if no sample
    is recognised."""
    unrecognised: float
    """Share of the samples that show no mode, in [0, 1]."""


def mode_coverage(found: Tensor, frequencies: Tensor) -> ModeCoverage:
    """Coverage of modes, and divergence from their true frequencies (as in Lin et al. 2018, PacGAN, section 4.1).

    `found` is int64 (N,), the mode that each sample shows, -1 for none. `frequencies`, float (modes,), say how often
    the data show each, up to a factor; all positive. ValueError for no samples, or an unknown mode.
    """
    if len(found) == 0 or int(found.max()) >= len(frequencies):
        raise ValueError(f"modes: {len(found)} samples, of {len(frequencies)} modes, with modes up to {found.max()}")
    counts = torch.bincount(found[found >= 0], minlength=len(frequencies)).double()
    true = frequencies.double() / frequencies.double().sum()
    recognised = counts.sum()
    drawn = counts / recognised.clamp(min=1)
    divergence = torch.special.xlogy(drawn, drawn / true).sum()
    return ModeCoverage(
        covered=float((counts > 0).double().mean()),
        divergence=float(divergence) if recognised else None,
        unrecognised=float((found < 0).double().mean()),
    )

"""Precision and recall, density and coverage: how real samples look, and how much of the data they cover."""

from typing import TYPE_CHECKING

from metrics.metric import Context, Metric
from metrics.neighbours import DENSITY_NEIGHBOURS, PRECISION_NEIGHBOURS
from records.figures import Direction, Figure

if TYPE_CHECKING:
    from features.extractors import Extractor
    from metrics.real_statistics import RealStatistics
    from metrics.sample_statistics import SampleStatistics


class _OfNeighbours(Metric):
    """The common part: the names of the figures, in the order shown, and the k of the balls."""

    needs = frozenset({"rows", "neighbours"})
    shown: tuple[str, ...]
    k: int

    def unavailable(self, context: Context) -> str | None:
        least = DENSITY_NEIGHBOURS + 1
        if context.fewest >= least:
            return None
        return f"needs {least} pictures on each side; there are {context.real_count} and {context.fake.count}"

    def figures(self, real: "RealStatistics", fake: "SampleStatistics") -> dict[str, Figure]:
        found, directions = fake.neighbour_figures(real), self.directions(fake.extractor)
        settings = {"k": self.k, "real": len(real.neighbours), "samples": len(fake.neighbours)}
        return {name: Figure(getattr(found, name), directions[name], None, settings) for name in self.shown}


class PrecisionRecall(_OfNeighbours):
    """Precision and recall (Kynkäänniemi et al. 2019)."""

    name = "precision_recall"
    shown = ("precision", "recall")
    k = PRECISION_NEIGHBOURS

    def directions(self, extractor: "Extractor") -> dict[str, Direction]:
        return {"recall": "higher", "precision": "higher"}


class DensityCoverage(_OfNeighbours):
    """Density and coverage (Naeem et al. 2020)."""

    name = "density_coverage"
    shown = ("density", "coverage")
    k = DENSITY_NEIGHBOURS

    def directions(self, extractor: "Extractor") -> dict[str, Direction]:
        return {"coverage": "higher", "density": "higher"}

"""The record of an evaluation: figures measured after a fit, one file each in a run's `evaluations/`."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from records.figures import Figure, FigureRecord, Protocol, recorded
from records.record import Record

NUM_SAMPLES = 2048
"""Default number of samples of a model that figures are measured on, in training and in evaluations.

The bias of a figure depends on it, so figures of a fit and of an evaluation compare only at the same number.
"""
LIKELIHOOD_SAMPLES = 1000
"""Default number of held-out examples that a likelihood is averaged over, in training and in evaluations."""


@dataclass(frozen=True)
class Evaluation(Record):
    """Figures with one protocol, and the time of the measurement (ISO 8601, UTC)."""

    figures: dict[str, FigureRecord]
    measured: str | None = None

    @classmethod
    def of(cls, figures: Mapping[str, Figure], protocol: Protocol) -> "Evaluation":
        """A record of figures measured just now."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return cls({name: recorded(figure, protocol) for name, figure in figures.items()}, now)

    def keep(self, run_folder: Path | None) -> None:
        """Writes evaluations/<time>.json into a run's folder, if there is one; run.json belongs to the fit."""
        if run_folder is not None:
            folder = run_folder / "evaluations"
            folder.mkdir(exist_ok=True)
            self.write(folder / f"{datetime.datetime.now().strftime('%Y%m%d-%H%M%S-%f')}.json")

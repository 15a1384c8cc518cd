"""An evaluation: figures that were measured after a fit, a file each in a run's `evaluations/`."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from records.figures import Figure, FigureRecord, Protocol, recorded
from records.record import Record

NUM_SAMPLES = 2048
"""Samples of a model that its figures rest on by default, in training and in evaluations.

A figure's bias depends on this number, so that figures of a fit and of an evaluation compare only at the same one.
"""


@dataclass(frozen=True)
class Evaluation(Record):
    """Figures with one protocol, and when they were measured (ISO 8601, UTC)."""

    figures: dict[str, FigureRecord]
    measured: str | None = None

    @classmethod
    def of(cls, figures: Mapping[str, Figure], protocol: Protocol) -> "Evaluation":
        """What was measured just now."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return cls({name: recorded(figure, protocol) for name, figure in figures.items()}, now)

    def keep(self, run_folder: Path | None) -> None:
        """Adds it to a run's folder, if there is one, as evaluations/<time>.json; run.json belongs to the fit."""
        if run_folder is not None:
            folder = run_folder / "evaluations"
            folder.mkdir(exist_ok=True)
            self.write(folder / f"{datetime.datetime.now().strftime('%Y%m%d-%H%M%S-%f')}.json")

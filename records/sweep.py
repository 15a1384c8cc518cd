"""sweep.json: the trials of a sweep."""

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from records.record import Record

SCHEMA = 1

SweepStatus: TypeAlias = Literal["running", "done", "stopped"]
State: TypeAlias = Literal["running", "done", "early", "failed", "stopped"]


@dataclass
class Trial(Record):
    """One trial.

    Attributes:
        number: from 0.
        settings: its parameters.
        quantiles: where in each distribution they lie, in [0, 1); empty for a grid.
        state: early: ended by hyperband; stopped: by a signal, and to be run again.
        value: the metric's last measurement.
        measurements: how many there were.
        attempt: from 1; a trial that was killed or stopped is run again from its beginning.
        run: the folder of its run.
    """

    number: int
    settings: dict[str, Any]
    quantiles: dict[str, float] = field(default_factory=dict)
    state: State = "running"
    value: float | None = None
    measurements: int = 0
    seconds: float = 0.0
    attempt: int = 1
    run: str = ""
    pid: int | None = None
    exit_code: int | None = None
    error: str | None = None

    @property
    def counts(self) -> bool:
        """Whether its value says something of its parameters."""
        return self.state in ("done", "early") and self.value is not None


@dataclass
class BestTrial(Record):
    """The trial with the best last measurement, and the command that runs it again."""

    trial: int
    value: float | None
    run: str
    command: str


@dataclass
class SweepRecord(Record):
    """All of sweep.json; `file` is what the sweep file says."""

    schema: int
    name: str
    status: SweepStatus
    seed: int
    file: dict[str, Any]
    best: BestTrial | None = None
    trials: list[Trial] = field(default_factory=list)

"""The record of a sweep, sweep.json."""

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
        number: counted from 0.
        settings: its parameters.
        quantiles: the quantile of each parameter in its distribution, in [0, 1); empty for a grid.
        state: "early" if hyperband ended it; "stopped" if a signal did, and it will run again.
        value: the last measurement of the metric.
        measurements: the number of measurements.
        attempt: counted from 1; a trial that was killed or stopped restarts from its beginning.
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
        """Whether its value can guide the choice of further parameters."""
        return self.state in ("done", "early") and self.value is not None


@dataclass
class BestTrial(Record):
    """The trial with the best last measurement, and the command to run it again."""

    trial: int
    value: float | None
    run: str
    command: str


@dataclass
class SweepRecord(Record):
    """All of sweep.json. `file` is the content of the sweep file."""

    schema: int
    name: str
    status: SweepStatus
    seed: int
    file: dict[str, Any]
    best: BestTrial | None = None
    trials: list[Trial] = field(default_factory=list)

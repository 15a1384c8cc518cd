"""The record of a run, run.json."""

from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeAlias

from records.diagnosis import Findings
from records.figures import FigureRecord
from records.record import LaterVersionError, Record
from settings.phases import OUTSIDE_STEPS

SCHEMA = 1
"""Raised whenever a field of run.json changes its meaning."""

Status: TypeAlias = Literal["running", "done", "stopped", "failed"]


@dataclass
class OfClass(Record):
    """Something that is described by its class path."""

    class_path: str = ""

    @property
    def name(self) -> str:
        """The name of the class."""
        return self.class_path.rpartition(".")[2]


@dataclass
class Described(OfClass):
    """A model as its checkpoint describes it."""

    init_args: dict[str, Any] = field(default_factory=dict)


@dataclass
class Data(OfClass):
    """The data of a run. `train_size` counts training examples."""

    train_size: int | None = None
    fingerprint: str | None = None
    data_shape: list[int] | None = None
    num_classes: int | None = None


@dataclass
class Hardware(Record):
    """The machine. `gpu` is None if it has none in use."""

    device: str | None = None
    gpu: str | None = None
    gpu_gib: float | None = None
    cpu: str | None = None
    cores: int | None = None
    threads: int | None = None
    memory_gib: float | None = None
    system: str | None = None

    @property
    def kind(self) -> tuple[str | int | None, ...]:
        """What times depend on; only runs on hardware of one kind are pooled."""
        return (self.device, self.gpu, self.cpu, self.cores, self.threads)


@dataclass
class InitFrom(Record):
    """The checkpoint whose weights a run began with, the number of tensors taken, and the names of those left out."""

    path: str = ""
    taken: int | None = None
    left: list[str] = field(default_factory=list)


@dataclass
class ResumeOverride(Record):
    """Settings that changed when a run was resumed after `samples_seen`, as "key: old -> new"."""

    samples_seen: int = 0
    changed: list[str] = field(default_factory=list)


@dataclass
class Predicted(Record):
    """The prediction of the plan before training."""

    s_per_kimg: float | None = None
    peak_bytes: float | None = None


@dataclass
class MemoryUse(Record):
    """Peak memory by phase, the bytes that autograd and optimizers keep, and the source of the peaks."""

    source: str | None = None
    peak_gib: dict[str, float] = field(default_factory=dict)
    kept_bytes: dict[str, float] = field(default_factory=dict)

    @property
    def training_peak_gib(self) -> float | None:
        """The highest peak among the phases of a training step."""
        return max((gib for phase, gib in self.peak_gib.items() if phase not in OUTSIDE_STEPS), default=None)


@dataclass
class Speed(Record):
    """The speed of training, without evaluations."""

    samples_per_s: float | None = None
    s_per_kimg: float | None = None


@dataclass
class RunRecord(Record):
    """All of run.json. `seconds` is the wall time of all fits of this run.

    `init_from` and `origin` say what the run began with: a checkpoint, or imported weights.
    """

    schema: int
    id: str = ""
    name: str = ""
    status: Status | None = None
    started: str | None = None
    ended: str | None = None
    error: str | None = None
    model: Described = field(default_factory=Described)
    parameters: dict[str, int] = field(default_factory=dict)
    data: Data = field(default_factory=Data)
    origin: dict[str, Any] = field(default_factory=dict)
    init_from: InitFrom = field(default_factory=InitFrom)
    resume_overrides: list[ResumeOverride] = field(default_factory=list)
    samples_seen: int | None = None
    seconds: float | None = None
    devices: int = 1
    hardware: Hardware = field(default_factory=Hardware)
    precision: str | None = None
    versions: dict[str, Any] = field(default_factory=dict)
    commit: str | None = None
    plan: Predicted = field(default_factory=Predicted)
    memory: MemoryUse = field(default_factory=MemoryUse)
    throughput: Speed = field(default_factory=Speed)
    figures: dict[str, FigureRecord] = field(default_factory=dict)
    diagnosis: Findings | None = None
    wandb_id: str | None = None
    wandb_rows: int = 0

    @classmethod
    def from_json(cls, value: object, where: str = "") -> Self:
        """As `Record.from_json`. Raises LaterVersionError if the schema is not known yet."""
        schema = value.get("schema") if isinstance(value, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            raise LaterVersionError(
                f"has schema {schema}, of a later version of Atelier; this version reads {SCHEMA}: update Atelier"
            )
        return super().from_json(value, where)

    @property
    def kimg(self) -> float | None:
        """Samples seen, in thousands."""
        return None if self.samples_seen is None else self.samples_seen / 1000

    @property
    def began_with(self) -> str | None:
        """The checkpoint whose weights the run began with, or the code that they were imported from."""
        return self.init_from.path or self.origin.get("code")

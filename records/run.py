"""run.json: what a fit leaves behind of a run, beside its checkpoints, samples and metrics.jsonl."""

from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeAlias

from records.diagnosis import Findings
from records.figures import FigureRecord
from records.record import LaterVersionError, Record

SCHEMA = 1
"""Raised whenever a field of run.json changes its meaning."""

OUTSIDE_STEPS = ("sampling", "metrics", "checkpoint", "likelihood")
"""Phases that are not part of a training step: its time and memory are counted without them."""

Status: TypeAlias = Literal["running", "done", "stopped", "failed"]


@dataclass
class Described(Record):
    """A model as its checkpoint describes it."""

    class_path: str = ""
    init_args: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The class's name."""
        return self.class_path.rpartition(".")[2]


@dataclass
class Data(Record):
    """The data of a run; `train_size` counts training examples."""

    class_path: str = ""
    train_size: int | None = None
    fingerprint: str | None = None
    data_shape: list[int] | None = None
    num_classes: int | None = None

    @property
    def name(self) -> str:
        """The class's name."""
        return self.class_path.rpartition(".")[2]


@dataclass
class Hardware(Record):
    """The machine. `gpu` is None on a CPU."""

    device: str | None = None
    gpu: str | None = None
    gpu_gib: float | None = None
    cpu: str | None = None
    cores: int | None = None
    threads: int | None = None
    memory_gib: float | None = None
    system: str | None = None


@dataclass
class InitFrom(Record):
    """The checkpoint whose weights a run began with: how many tensors it took, and which it left."""

    path: str = ""
    taken: int | None = None
    left: list[str] = field(default_factory=list)


@dataclass
class ResumeOverride(Record):
    """Settings that changed when a run went on after so many samples, as "key: old -> new"."""

    samples_seen: int = 0
    changed: list[str] = field(default_factory=list)


@dataclass
class Predicted(Record):
    """What the plan promised before training."""

    s_per_kimg: float | None = None
    peak_bytes: float | None = None


@dataclass
class MemoryUse(Record):
    """Peak memory by phase, what autograd and optimizers keep, and where the peaks were read."""

    source: str | None = None
    peak_gib: dict[str, float] = field(default_factory=dict)
    kept_bytes: dict[str, float] = field(default_factory=dict)

    @property
    def training_peak_gib(self) -> float | None:
        """The highest peak of the phases of a step."""
        return max((gib for phase, gib in self.peak_gib.items() if phase not in OUTSIDE_STEPS), default=None)


@dataclass
class Speed(Record):
    """The speed of training alone, without evaluations."""

    samples_per_s: float | None = None
    s_per_kimg: float | None = None


@dataclass
class RunRecord(Record):
    """All of run.json. `seconds` is the wall time of all fits of this run together.

    `init_from` and `origin` say what the run began with: a checkpoint, or weights that others trained.
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
        """As `Record.from_json`. Raises LaterVersionError for a schema that is not known yet."""
        schema = value.get("schema") if isinstance(value, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            raise LaterVersionError(
                f"has schema {schema}, of a later version of Atelier; this one reads {SCHEMA}: update it"
            )
        return super().from_json(value, where)

    @property
    def kimg(self) -> float | None:
        """Thousand samples seen."""
        return None if self.samples_seen is None else self.samples_seen / 1000

    @property
    def began_with(self) -> str | None:
        """The checkpoint whose weights it began with, or the code whose weights were imported."""
        return self.init_from.path or self.origin.get("code")

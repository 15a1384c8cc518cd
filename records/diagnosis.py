"""A diagnosis: what was looked for in a model, and what was found."""

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from records.record import Record

Verdict: TypeAlias = Literal["fine", "suspect", "found", "unknown"]


@dataclass(frozen=True)
class Finding(Record):
    """One thing that was looked for.

    Attributes:
        name: What was looked for.
        verdict: Whether it is there.
        says: What was seen, in a sentence with its figures.
        helps: What usually helps; empty where nothing is wrong.
        figures: What it rests on.
    """

    name: str
    verdict: Verdict
    says: str = ""
    helps: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Findings(Record):
    """What was found at one point of training.

    Attributes:
        samples_seen: When.
        findings: One for each thing that could be looked for.
        num_samples: Samples looked at.
        weights: Averaged ("ema") or of the last step ("raw").
        device: What the networks ran on.
    """

    samples_seen: int = 0
    findings: list[Finding] = field(default_factory=list)
    num_samples: int | None = None
    weights: str | None = None
    device: str | None = None

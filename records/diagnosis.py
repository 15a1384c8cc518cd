"""The record of a diagnosis."""

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from records.record import Record

NUM_SAMPLES = 2000
"""Samples that a diagnosis looks at by default."""

Verdict: TypeAlias = Literal["fine", "suspect", "found", "unknown"]


@dataclass(frozen=True)
class Finding(Record):
    """The result of one check, such as mode collapse.

    Attributes:
        says: the evidence, in a sentence with figures.
        helps: the usual remedy; empty if nothing is wrong.
        figures: the figures behind the verdict.
    """

    name: str
    verdict: Verdict
    says: str = ""
    helps: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Findings(Record):
    """All findings at one point of training: one for each check that was possible, on `num_samples` samples.

    `weights` are averaged ("ema") or of the last step ("raw").
    """

    samples_seen: int = 0
    findings: list[Finding] = field(default_factory=list)
    num_samples: int | None = None
    weights: str | None = None
    device: str | None = None

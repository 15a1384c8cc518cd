"""Figures: measures of a model's quality, and their records with protocols."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

from records.record import Record

_T = TypeVar("_T")

Direction: TypeAlias = Literal["lower", "higher"]
"""The direction in which a figure is better."""
Protocol: TypeAlias = dict[str, Any]
"""Everything that a figure depends on besides the model's weights."""

LIKELIHOOD = "likelihood"
"""A protocol key that only likelihoods have."""


def is_better(value: float, other: float, better: Direction) -> bool:
    """Whether `value` is better than `other`."""
    return value < other if better == "lower" else value > other


def best_of(found: Iterable[_T], value: Callable[[_T], float], better: Direction) -> _T:
    """The item with the best value; the first of equal ones. Raises ValueError if there is none."""
    return min(found, key=value) if better == "lower" else max(found, key=value)


@dataclass(frozen=True)
class Figure:
    """A computed figure.

    Attributes:
        value: the figure.
        better: the direction in which it is better, or None.
        spread: its standard deviation or error, if it has one; `settings` says which.
        settings: what it depends on besides extractor and pictures: neighbours, subsets, splits.
    """

    value: float
    better: Direction | None
    spread: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Best(Record):
    """The best value of a figure so far, and the samples seen when it was reached.

    `value` is None in the record of an earlier version, if the first value was not a number.
    """

    value: float | None
    samples_seen: int


@dataclass(frozen=True)
class FigureRecord(Record):
    """A figure in a record. `value` is None if it was not a number."""

    value: float | None
    protocol: Protocol
    better: Direction | None = None
    spread: float | None = None
    samples_seen: int | None = None
    best: Best | None = None

    @property
    def is_likelihood(self) -> bool:
        return LIKELIHOOD in self.protocol


def recorded(
    figure: Figure, protocol: Protocol, samples_seen: int | None = None, before: FigureRecord | None = None
) -> FigureRecord:
    """The record of a figure, with its own settings in the protocol.

    If it was measured in training, after `samples_seen`, it has the best value so far; `before` is its previous record.
    """
    best = before.best if before is not None else None
    if samples_seen is not None and figure.better is not None and math.isfinite(figure.value):
        known = None if best is None else best.value
        if known is None or is_better(figure.value, known, figure.better):
            best = Best(figure.value, samples_seen)
    how = {**protocol, **figure.settings}
    return FigureRecord(figure.value, how, figure.better, figure.spread, samples_seen, best)

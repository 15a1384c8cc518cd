"""Figures: numbers that say how good a model is, and how they are kept with their protocol."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

from records.record import Record

_T = TypeVar("_T")

Direction: TypeAlias = Literal["lower", "higher"]
"""Which way a figure is better."""
Protocol: TypeAlias = dict[str, Any]
"""All that a figure depends on besides the model's weights."""

LIKELIHOOD = "likelihood"
"""A key that the protocol of likelihoods has, and no other."""


def is_better(value: float, other: float, better: Direction) -> bool:
    """Whether a value is better than another."""
    return value < other if better == "lower" else value > other


def best_of(found: Iterable[_T], value: Callable[[_T], float], better: Direction) -> _T:
    """The one with the best value, of equal ones the first. ValueError if there is none."""
    return min(found, key=value) if better == "lower" else max(found, key=value)


@dataclass(frozen=True)
class Figure:
    """A figure as it was computed.

    Attributes:
        value: The figure.
        better: Which way it is better; None where neither is.
        spread: Its standard deviation or error, where it has one; `settings` says which.
        settings: What it depends on besides extractor and pictures: neighbours, subsets, splits.
    """

    value: float
    better: Direction | None
    spread: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Best(Record):
    """The best value of a figure so far, and after how many samples it was reached."""

    value: float
    samples_seen: int


@dataclass(frozen=True)
class FigureRecord(Record):
    """A figure as a record keeps it; `value` is None where it was not a number."""

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
    """A figure with its protocol, and with the best value so far if it was measured in training.

    Args:
        figure: as computed.
        protocol: of the measurement; the figure's own settings are added.
        samples_seen: in training, when it was measured; then `best` is kept.
        before: the same figure's record at the measurement before.
    """
    best = before.best if before is not None else None
    if samples_seen is not None and figure.better is not None:
        now = Best(figure.value, samples_seen)
        best = now if best is None or is_better(now.value, best.value, figure.better) else best
    how = {**protocol, **figure.settings}
    return FigureRecord(figure.value, how, figure.better, figure.spread, samples_seen, best)

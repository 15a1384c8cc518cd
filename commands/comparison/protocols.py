"""Groups the figures of several runs by protocol, so that only comparable ones are compared."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from records.figures import LIKELIHOOD, Direction, FigureRecord, Protocol
from records.folder import RunFolder
from records.record import printable
from settings.sampling import neutral

SHARED = (
    LIKELIHOOD, "extractor", "weights_sha256", "resolution", "resize", "precision", "data", "data_shape", "reference",
    "reference_samples", "num_samples", "samples", "samples_data", "seed", "sampler",
)  # fmt: skip
"""Keys that all figures of one measurement share; others, such as k or subsets, belong to one figure."""

NOT_HOW = ("model", "samples_seen", "device", "by_class", "classifier_accuracy", "settings")
"""Keys that are not part of the protocol: what was measured, the device, and results. The family's `settings` are
shown in a column, except for the weights."""

NEUTRAL = neutral()
"""Neutral values of sampler settings that trade diversity for quality. A family without such a setting compares as if
at this value; figures at other values cannot be compared. Other settings of a family (steps, standing statistics)
describe how the model samples, and are shown in a column."""


@dataclass(frozen=True)
class Measurement:
    """One figure of one run."""

    run: RunFolder
    name: str
    figure: FigureRecord
    samples_seen: int | None
    protocol: Protocol
    """The part of the protocol that must be equal for two figures to be compared."""
    own: Protocol
    """The part that concerns this figure alone, which must be equal too."""
    drawn_with: str
    """The family's own settings, as text."""
    by_fit: bool
    """Whether the fit measured it, not `evaluate`."""


@dataclass(frozen=True)
class Panel:
    """Figures with one protocol."""

    protocol: Protocol
    own: dict[str, Protocol]
    """Keys of single figures, by figure."""
    measurements: list[Measurement]

    @property
    def is_likelihood(self) -> bool:
        return LIKELIHOOD in self.protocol

    @property
    def likelihood(self) -> str:
        """The kind of likelihood, such as "exact" or "lower bound"; "" for other figures."""
        return str(self.protocol.get(LIKELIHOOD, ""))

    @property
    def names(self) -> list[str]:
        """The names of its figures, the main one first."""
        return list(dict.fromkeys(m.name for m in self.measurements))

    def better(self, name: str) -> Direction | None:
        """The direction in which a figure is better, if any of the runs states it."""
        return next((m.figure.better for m in self.measurements if m.name == name and m.figure.better), None)


def measurements(run: RunFolder) -> Iterator[Measurement]:
    """A run's figures: those of the fit, then those of `evaluate`, oldest first."""
    for name, figure in run.record.figures.items():
        yield _measurement(run, name, figure, figure.samples_seen, True)
    for evaluation in run.evaluations:
        for name, figure in evaluation.figures.items():
            seen = figure.protocol.get("samples_seen", run.record.samples_seen)
            yield _measurement(run, name, figure, seen, False)


def panels(runs: Sequence[RunFolder], likelihood: bool) -> list[Panel]:
    """The runs' figures of quality, or likelihoods, grouped by protocol; the protocol of most runs first."""
    sorted_by: dict[tuple[str, int], Panel] = {}
    variants: dict[tuple[str, str], list[Protocol]] = {}
    for run in runs:
        for found in measurements(run):
            if found.figure.is_likelihood != likelihood:
                continue
            shared = json.dumps(found.protocol, sort_keys=True)
            seen = variants.setdefault((shared, found.name), [])
            if found.own not in seen:
                seen.append(found.own)
            key = (shared, seen.index(found.own))
            panel = sorted_by.setdefault(key, Panel(found.protocol, {}, []))
            panel.own[found.name] = found.own
            panel.measurements.append(found)
    return sorted(sorted_by.values(), key=lambda panel: -len({m.run.folder for m in panel.measurements}))


def difference(panel: Panel, other: Panel) -> str:
    """The differences between two protocols as text: "num_samples 2000 (there 2048)"."""
    mine, theirs = ({**_flat(p.protocol), **_flat(p.own)} for p in (panel, other))
    # A figure that only one of them has is not a difference of protocols.
    alone = set(panel.own) ^ set(other.own)
    keys = [k for k in {**mine, **theirs} if mine.get(k) != theirs.get(k) and k.partition(".")[0] not in alone]
    return ", ".join(f"{key} {short(mine.get(key))} (there {short(theirs.get(key))})" for key in keys)


def in_words(panel: Panel) -> str:
    """A protocol in one line."""
    flat = {**_flat(panel.protocol), **_flat({k: v for k, v in panel.own.items() if v})}
    return ", ".join(f"{key} {short(value)}" for key, value in flat.items() if value is not None)


def short(value: object) -> str:
    """A protocol's value as short text; hashes are shortened."""
    if value is None:
        return "none"
    text = printable(json.dumps(value) if isinstance(value, dict | list) else value)
    is_hash = len(text) >= 40 and all(c in "0123456789abcdef" for c in text.split(" ")[0])
    return f"{text[:12]}…" if is_hash or len(text) > 60 else text


def _measurement(run: RunFolder, name: str, figure: FigureRecord, seen: int | None, by_fit: bool) -> Measurement:
    protocol = dict(figure.protocol)
    if isinstance(protocol.get("samples"), int):  # the number of samples that a neighbour metric examined
        protocol["samples looked at"] = protocol.pop("samples")
    shared = {key: protocol[key] for key in SHARED if key in protocol and key != "sampler"}
    how = ""
    if figure.is_likelihood:  # "exact" or "lower bound", then how it is computed
        shared[LIKELIHOOD], _, how = str(shared[LIKELIHOOD]).partition(",")
    settings = {**_dict(protocol.get("sampler")), **_dict(protocol.get("settings"))}
    drawn = {key: value for key, value in settings.items() if key not in ("weights", "precision", *NEUTRAL)}
    if not settings.get("standing_statistics"):
        drawn = {key: value for key, value in drawn.items() if not key.startswith("standing_")}
    shared["sampler"] = {
        key: value
        for key, value in settings.items()
        if key in ("weights", "precision") or (key in NEUTRAL and value != NEUTRAL[key])
    }
    own = {key: value for key, value in protocol.items() if key not in SHARED and key not in NOT_HOW}
    words = [printable(how.strip())] if how else []
    words += [f"{printable(key)} {short(value)}" for key, value in drawn.items() if value is not None]
    return Measurement(run, printable(name), figure, seen, shared, own, ", ".join(words), by_fit)


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {f"{prefix}{key}": item}
    return flat

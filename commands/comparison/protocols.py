"""Figures of several runs, sorted by protocol: only what was measured alike is set side by side."""

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
"""What all figures of one measurement have in common; other keys of a protocol belong to one figure: k, subsets."""

NOT_HOW = ("model", "samples_seen", "device", "by_class", "classifier_accuracy", "settings")
"""Keys that say what was measured, on which device, or what came out, and not how; of `settings`, which are a family's
own, the weights are part of the protocol and the rest stands in a column."""

NEUTRAL = neutral()
"""Settings of samplers that trade modes for clean samples, with the value that trades nothing. A family without one is
measured as one that has it at this value; at another value figures are not comparable. A family's other settings
(steps, standing statistics) are how that model draws, and stand in a column."""


@dataclass(frozen=True)
class Measurement:
    """One figure of one run."""

    run: RunFolder
    name: str
    value: float | None
    spread: float | None
    better: Direction | None
    best: float | None
    """The best value of the fit so far."""
    best_kimg: float | None
    samples_seen: int | None
    protocol: Protocol
    """What must be equal for two figures to be compared."""
    own: Protocol
    """Likewise, of this figure alone."""
    drawn_with: str
    """The family's own settings, in words."""
    by_fit: bool
    """Measured while training; else by `evaluate`."""
    is_likelihood: bool


@dataclass(frozen=True)
class Panel:
    """Figures with one protocol."""

    protocol: Protocol
    own: dict[str, Protocol]
    """By figure."""
    measurements: list[Measurement]

    @property
    def is_likelihood(self) -> bool:
        """Whether these are likelihoods of data; else figures of samples."""
        return LIKELIHOOD in self.protocol

    @property
    def likelihood(self) -> str:
        """What kind of likelihoods these are: "exact", "lower bound", "estimate"; "" for other figures."""
        return str(self.protocol.get(LIKELIHOOD, ""))

    @property
    def names(self) -> list[str]:
        """Its figures, the one that stands for all first."""
        return list(dict.fromkeys(m.name for m in self.measurements))

    def better(self, name: str) -> Direction | None:
        """Which way a figure is better, if any of the runs says so."""
        return next((m.better for m in self.measurements if m.name == name and m.better), None)


def measurements(run: RunFolder) -> Iterator[Measurement]:
    """A run's figures: those of the fit, then those of `evaluate`, oldest first."""
    for name, figure in run.record.figures.items():
        yield _measurement(run, name, figure, figure.samples_seen, True)
    for evaluation in run.evaluations:
        for name, figure in evaluation.figures.items():
            seen = figure.protocol.get("samples_seen", run.record.samples_seen)
            yield _measurement(run, name, figure, seen, False)


def panels(runs: Sequence[RunFolder], likelihood: bool) -> list[Panel]:
    """The runs' figures of quality, or of likelihood, sorted by protocol; the protocol of most runs first."""
    sorted_by: dict[tuple[str, int], Panel] = {}
    variants: dict[tuple[str, str], list[Protocol]] = {}
    for run in runs:
        for found in measurements(run):
            if found.is_likelihood != likelihood:
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
    """What two protocols have that differs, in words: "num_samples 2000 (there 2048)"."""
    mine, theirs = ({**_flat(p.protocol), **_flat(p.own)} for p in (panel, other))
    # What only one of them measures is no difference in how it is measured.
    alone = set(panel.own) ^ set(other.own)
    keys = [k for k in {**mine, **theirs} if mine.get(k) != theirs.get(k) and k.partition(".")[0] not in alone]
    return ", ".join(f"{key} {short(mine.get(key))} (there {short(theirs.get(key))})" for key in keys)


def in_words(panel: Panel) -> str:
    """A protocol in a line."""
    flat = {**_flat(panel.protocol), **_flat({k: v for k, v in panel.own.items() if v})}
    return ", ".join(f"{key} {short(value)}" for key, value in flat.items() if value is not None)


def short(value: object) -> str:
    """A value of a protocol; of a hash its beginning."""
    if value is None:
        return "none"
    text = printable(json.dumps(value) if isinstance(value, dict | list) else value)
    is_hash = len(text) >= 40 and all(c in "0123456789abcdef" for c in text.split(" ")[0])
    return f"{text[:12]}…" if is_hash or len(text) > 60 else text


def _measurement(run: RunFolder, name: str, figure: FigureRecord, seen: int | None, by_fit: bool) -> Measurement:
    protocol = dict(figure.protocol)
    if isinstance(protocol.get("samples"), int):  # how many of them a figure of neighbours looked at
        protocol["samples looked at"] = protocol.pop("samples")
    shared = {key: protocol[key] for key in SHARED if key in protocol and key != "sampler"}
    came_about = ""
    if figure.is_likelihood:  # "exact", "lower bound, ...": the rest says how it comes about
        shared[LIKELIHOOD], _, came_about = str(shared[LIKELIHOOD]).partition(",")
    settings = {**_dict(protocol.get("sampler")), **_dict(protocol.get("settings"))}
    shared["sampler"] = {
        key: value
        for key, value in settings.items()
        if key in ("weights", "precision") or (key in NEUTRAL and value != NEUTRAL[key])
    }
    theirs = {
        key: value
        for key, value in settings.items()
        if key not in ("weights", "precision") and key not in NEUTRAL and value is not None
        if settings.get("standing_statistics") or not key.startswith("standing_")  # how, where they are off
    }
    return Measurement(
        run,
        printable(name),
        figure.value,
        figure.spread,
        figure.better,
        None if figure.best is None else figure.best.value,
        None if figure.best is None else figure.best.samples_seen / 1000,
        seen,
        shared,
        {key: value for key, value in protocol.items() if key not in SHARED and key not in NOT_HOW},
        ", ".join(
            [printable(came_about.strip())] * bool(came_about)
            + [f"{printable(k)} {short(v)}" for k, v in theirs.items()]
        ),
        by_fit,
        figure.is_likelihood,
    )


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {f"{prefix}{key}": item}
    return flat

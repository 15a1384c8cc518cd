"""Figures measured after a fit: as a run's folder keeps them, and as a terminal shows them; without torch."""

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from media.files import without_nonfinite, write_json_whole


class Figure(Protocol):
    """What is read here of `metrics.evaluation.Figure`, whose import would bring torch."""

    @property
    def value(self) -> float: ...
    @property
    def better(self) -> str | None: ...
    @property
    def spread(self) -> float | None: ...
    @property
    def settings(self) -> dict[str, Any]: ...


def evaluation(figures: Mapping[str, Figure], protocol: dict[str, Any]) -> dict[str, Any]:
    """Figures with one protocol as run.json has them, and when they were measured."""
    return {
        "figures": {name: as_plain(figure, protocol) for name, figure in figures.items()},
        "measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def as_plain(figure: Figure, protocol: dict[str, Any]) -> dict[str, Any]:
    """A figure as run.json has it."""
    spread = {} if figure.spread is None else {"spread": figure.spread}
    return {"value": figure.value, **spread, "better": figure.better, "protocol": {**protocol, **figure.settings}}


def keep(result: dict[str, Any], run_folder: Path | None) -> None:
    """Adds the result to the run's folder, if there is one: evaluations/<time>.json; run.json belongs to the fit."""
    if run_folder is None:
        return
    folder = run_folder / "evaluations"
    folder.mkdir(exist_ok=True)
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    write_json_whole(folder / f"{stamp}.json", result)


def as_json(result: dict[str, Any]) -> str:
    """A result for --json; null where a figure is no number."""
    return json.dumps(without_nonfinite(result), indent=2)


def figure_lines(figures: Mapping[str, Figure]) -> list[str]:
    """Figures for a terminal: value, spread, and which way is better; those of single classes below."""
    rows = []
    for name, figure in figures.items():
        spread = "" if figure.spread is None else f" ± {figure.spread:.3g}"
        rows.append((name, f"{figure.value:.6g}{spread}", f"{figure.better} is better" if figure.better else ""))
        for number, value in enumerate(figure.settings.get("by_class", [])):
            rows.append((f"  class {number}", f"{value:.4g}", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return [f"{name:<{widths[0]}}  {value:<{widths[1]}}  {better}".rstrip() for name, value, better in rows]


def protocol_lines(protocol: dict[str, Any]) -> list[str]:
    """A protocol for a terminal, a line each; of a hash its beginning."""
    return [f"  {key:<20} {_short(value)}" for key, value in protocol.items()]


def _short(value: object) -> str:
    text = json.dumps(value) if isinstance(value, dict) else str(value)
    return f"{text[:12]}…" if len(text) == 64 and all(c in "0123456789abcdef" for c in text) else text

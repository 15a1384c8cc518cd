"""Prints figures in a terminal; without torch."""

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from media.files import without_nonfinite
from records.evaluation import Evaluation
from records.figures import Figure


def keep_and_print(
    figures: Mapping[str, Figure],
    protocol: dict[str, Any],
    run_folder: Path | None,
    options: Namespace,
    notes: Sequence[str] = (),
) -> None:
    """Keeps an evaluation in its run's folder, if there is one, and prints it, as JSON if `options.json`."""
    result = Evaluation.of(figures, protocol)
    result.keep(run_folder)
    lines = [*figure_lines(figures), *notes, "", *protocol_lines(protocol)]
    print(as_json(result.to_json()) if options.json else "\n".join(lines))


def as_json(value: dict[str, Any]) -> str:
    """The output of --json; values that are not finite are null."""
    return json.dumps(without_nonfinite(value), indent=2)


def figure_lines(figures: Mapping[str, Figure]) -> list[str]:
    """One line for each figure: value, spread and direction. Values of single classes follow below."""
    rows = []
    for name, figure in figures.items():
        spread = "" if figure.spread is None else f" ± {figure.spread:.3g}"
        rows.append((name, f"{figure.value:.6g}{spread}", f"{figure.better} is better" if figure.better else ""))
        for number, value in enumerate(figure.settings.get("by_class", [])):
            rows.append((f"  class {number}", f"{value:.4g}", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return [f"{name:<{widths[0]}}  {value:<{widths[1]}}  {better}".rstrip() for name, value, better in rows]


def protocol_lines(protocol: dict[str, Any]) -> list[str]:
    """One line for each key of a protocol; hashes are shortened."""
    return [f"  {key:<20} {_short(value)}" for key, value in protocol.items()]


def _short(value: object) -> str:
    text = json.dumps(value) if isinstance(value, dict) else str(value)
    return f"{text[:12]}…" if len(text) == 64 and all(c in "0123456789abcdef" for c in text) else text

"""Figures as a terminal shows them; without torch."""

import json
from collections.abc import Mapping
from typing import Any

from media.files import without_nonfinite
from records.figures import Figure


def as_json(value: dict[str, Any]) -> str:
    """What --json prints; null where a figure is not a number."""
    return json.dumps(without_nonfinite(value), indent=2)


def figure_lines(figures: Mapping[str, Figure]) -> list[str]:
    """Figures, a line each: value, spread, and which way it is better; those of single classes below."""
    rows = []
    for name, figure in figures.items():
        spread = "" if figure.spread is None else f" ± {figure.spread:.3g}"
        rows.append((name, f"{figure.value:.6g}{spread}", f"{figure.better} is better" if figure.better else ""))
        for number, value in enumerate(figure.settings.get("by_class", [])):
            rows.append((f"  class {number}", f"{value:.4g}", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return [f"{name:<{widths[0]}}  {value:<{widths[1]}}  {better}".rstrip() for name, value, better in rows]


def protocol_lines(protocol: dict[str, Any]) -> list[str]:
    """A protocol, a line each; of a hash its beginning."""
    return [f"  {key:<20} {_short(value)}" for key, value in protocol.items()]


def _short(value: object) -> str:
    text = json.dumps(value) if isinstance(value, dict) else str(value)
    return f"{text[:12]}…" if len(text) == 64 and all(c in "0123456789abcdef" for c in text) else text

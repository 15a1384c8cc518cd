"""`compare --html`: a page that needs no network, since style, script and pictures are all in one file."""

import base64
import datetime
import hashlib
import html
import json
import math
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from commands.comparison.tables import Column, Group, Row, Table, counted, differing_settings
from records.folder import RunFolder
from records.record import printable

PARTS = Path(__file__).parent / "compare_page"

GRID_BYTES = 12_000_000
"""Most bytes of pictures in a page, of all runs together; grids are thinned out to stay below."""

TEXT = 4000
"""Most characters of a text sample."""

POINTS = 200
"""Most points of a curve."""

UNPLOTTED = re.compile(r"memory/|samples_per_s$|s_per_kimg$|data_wait$|(samples_seen|seconds|epoch|step)$")
"""Keys of metrics.jsonl that the tables show already."""


def page(found: Sequence[Group], made: Sequence[Table], grids: int) -> str:
    """The text of the page, with at most `grids` sample grids of each run; `made` begins with the summary."""
    settings = differing_settings(found)
    first, *others = [*made, *([settings] if settings.rows else [])]
    marks = {id(run): _mark(number) for number, group in enumerate(found) for run in group.runs}
    data = {
        "groups": [group.label for group in found],
        "looks": [look(number) for number in range(len(found))],
        "curves": curves(found, made),
        "scatter": scatter(found, made),
        "grids": pictures(found, grids),
    }
    script = (PARTS / "page.js").read_text()
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {
        "title": f"Comparison of {counted(found)}",
        "script_hash": f"sha256-{hashed}",
        "style": (PARTS / "style.css").read_text(),
        "made": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "links": "\n".join(f'<li><a href="#{_anchor(t)}">{html.escape(t.title)}</a></li>' for t in others),
        "summary": _table(first, marks),
        "tables": "\n".join(_table(table, marks) for table in others),
        "data": as_json(data),
        "script": script,
    }
    # In one pass, so that text inside a part is never taken for a placeholder.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], (PARTS / "page.html").read_text())


def as_json(value: object) -> str:
    """JSON that is safe inside a script element: no text can end the element or begin a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def look(group: int) -> tuple[str, str, str]:
    """The look of a group: the class of its colour, the id of its marker, and the dashes of its line.

    No two of fifty groups share both colour and marker. Of the first ten, two share each marker, in colours that the
    colour-blind can tell apart (blue and magenta, for example).
    """
    return f"g{group % 10}", f"mark{(group - group // 5) % 5}", ("", "6 4", "2 3", "9 3 2 3")[group // 10 % 4]


def _mark(group: int) -> str:
    colour, shape, _ = look(group)
    return f'<svg class="dot {colour}" aria-hidden="true"><use href="#{shape}"/></svg>'


# Curves.


def curves(found: Sequence[Group], made: Sequence[Table]) -> list[dict[str, Any]]:
    """Everything logged in training: figures by protocol, then the rest by name. Points are [kimg, seconds, value]."""
    logged = {id(run): _logged(run) for group in found for run in group.runs}
    group_of = {id(run): number for number, group in enumerate(found) for run in group.runs}
    figures: list[dict[str, Any]] = []
    plotted = set()
    for table in made:
        if table.panel is None:
            continue
        for name in table.panel.names:
            runs = [m.run for m in table.panel.measurements if m.name == name and m.by_fit]
            plotted |= {(id(run), name) for run in runs}
            series = [_series(run, group_of, points) for run in runs if (points := logged[id(run)].get(name))]
            if series:
                title = f"{name} · {table.title}"
                kind = "likelihood" if table.panel.is_likelihood else "quality"
                better = table.panel.better(name)
                figures.append({"title": title, "kind": kind, "better": better, "series": series})
    rest: dict[str, list[dict[str, Any]]] = {}
    for group in found:
        for run in group.runs:
            for name, points in logged[id(run)].items():
                if (id(run), name) not in plotted and len(points) > 1:
                    rest.setdefault(name, []).append(_series(run, group_of, points))
    losses = sorted(rest, key=lambda name: ("loss" not in name, name))
    return figures + [{"title": name, "kind": "training", "better": None, "series": rest[name]} for name in losses]


def _logged(run: RunFolder) -> dict[str, list[tuple[float, float, float]]]:
    """All logged numbers as (kimg, seconds, value), by name."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for row in run.rows():
        kimg, seconds = row["samples_seen"] / 1000, row.get("seconds")
        if not isinstance(seconds, int | float):
            continue
        for name, value in row.items():
            if isinstance(value, int | float) and math.isfinite(value):
                found.setdefault(name, []).append((kimg, seconds, value))
    return {printable(name): points for name, points in found.items() if not UNPLOTTED.match(name)}


def _series(run: RunFolder, group_of: Mapping[int, int], points: Sequence[tuple[float, ...]]) -> dict[str, Any]:
    thinned = [points[i] for i in _evenly(len(points), POINTS)]
    return {"run": run.label, "group": group_of[id(run)], "points": [[_short(v) for v in point] for point in thinned]}


# Figures against costs.


def scatter(found: Sequence[Group], made: Sequence[Table]) -> list[dict[str, Any]]:
    """The value and the costs of each row, by figure and protocol."""
    group_of = {id(run): number for number, group in enumerate(found) for run in group.runs}
    plots = []
    for table in made:
        if table.panel is None:
            continue
        for column in table.columns:
            if column.name not in table.panel.own:
                continue
            points = [
                {"label": row.label, "group": group_of[id(row.runs[0])], "y": _short(value), "x": _cost(row.runs[0])}
                for row in table.rows
                if (value := table.number(row, column)) is not None and math.isfinite(value)
            ]
            if len(points) > 1:  # a single point compares with nothing
                title = f"{column.name} · {table.title}"
                plots.append({"title": title, "better": column.better, "points": points})
    return plots


def _cost(run: RunFolder) -> dict[str, float]:
    record = run.record
    cost = {
        "parameters, all networks": sum(record.parameters.values()),
        f"peak memory in training, GiB ({printable(record.memory.source or 'unknown source')})":
            record.memory.training_peak_gib,
        "device hours, evaluations included": (record.seconds or 0) * record.devices / 3600,
        "training time, s/kimg": record.throughput.s_per_kimg,
        "kimg": record.kimg,
    }  # fmt: skip
    return {name: _short(value) for name, value in cost.items() if _is_number(value) and value}


# Sample grids.


def pictures(found: Sequence[Group], most: int) -> list[dict[str, Any]]:
    """Samples of each group's first run, at most `most` of each kind: grids as data URIs, texts as they are."""
    files = []
    for number, group in enumerate(found):
        kinds: dict[str, list[tuple[float, Path]]] = {}
        for path in sorted((group.runs[0].folder / "samples").glob("*kimg*")):
            match = re.fullmatch(r"(reconstructions_)?kimg(\d+\.\d+)\.(?:png|txt)", path.name)
            if match:
                kinds.setdefault("reconstructions" if match[1] else "samples", []).append((float(match[2]), path))
        files += [(number, group, kind, grids) for kind, grids in kinds.items()]
    share = GRID_BYTES / max(len(files), 1)
    made = []
    for number, group, kind, grids in files:
        size = sum(path.stat().st_size for _, path in grids) / len(grids)
        chosen = [grids[i] for i in _evenly(len(grids), min(most, max(1, int(share / max(size, 1)))))]
        times = [(row["samples_seen"] / 1000, row.get("seconds")) for row in group.runs[0].rows()]
        made.append(
            {
                "group": number,
                "run": group.runs[0].label,
                "kind": kind,
                "grids": [
                    {"kimg": _short(kimg), "seconds": _seconds_at(kimg, times), **_shown(path)} for kimg, path in chosen
                ],
            }
        )
    return [each for each in made if each["grids"]]


def _seconds_at(kimg: float, times: Sequence[tuple[float, Any]]) -> float | None:
    """The wall time at `kimg`, from rows (kimg, seconds); None if unknown."""
    if kimg == 0:
        return 0.0
    if not times:
        return None
    found = times[min(bisect_left(times, kimg, key=lambda row: row[0]), len(times) - 1)][1]
    return _short(found) if _is_number(found) else None


def _shown(path: Path) -> dict[str, str]:
    if path.suffix == ".txt":
        return {"text": path.read_text(errors="replace")[:TEXT]}
    return {"src": f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"}


# Tables.


def _table(table: Table, marks: Mapping[int, str]) -> str:
    columns = [column for column in table.columns if any(table.cell(row, column) for row in table.rows)]
    best = {column.name: table.best(column) for column in columns}
    heads = [_head(table.of, False), *(_head(column.name, column.kind != "text") for column in columns)]
    rows = []
    for row in table.rows:
        dot = marks[id(row.runs[0])] if row.runs else ""
        label = html.escape(row.label)
        breakable = re.sub(r"[_/.]", r"\g<0><wbr>", label)
        cells = [f'<th scope="row" data-sort="{label}">{dot}{breakable}</th>']
        for column in columns:
            text = html.escape(table.cell(row, column))
            if best[column.name] is row:
                text = f'<strong title="best of this table">{text}</strong>'
            cells.append(f"<td{_sorted_by(table, row, column)}>{text}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    anchor, title = _anchor(table), html.escape(table.title)
    words = re.sub("`(.+?)`", r"<code>\1</code>", html.escape(table.note))
    note = f'<p class="note" id="{anchor}-note">{words}</p>' if words else ""
    noted = f' aria-describedby="{anchor}-note"' if note else ""
    return (
        f'<section id="{anchor}"><h2>{title}</h2>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{title}">'
        f'<table{noted}><caption class="unseen">{title}</caption>'
        f"<thead><tr>{''.join(heads)}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{note}</section>"
    )


def _head(name: str, is_number: bool) -> str:
    kind = ' class="number"' if is_number else ""
    return f'<th scope="col" aria-sort="none"{kind}><button type="button">{html.escape(name)}</button></th>'


def _sorted_by(table: Table, row: Row, column: Column) -> str:
    if column.kind == "text":
        return ' class="text"'
    value = table.number(row, column)
    return ' class="number"' if value is None else f' class="number" data-sort="{value!r}"'


def _anchor(table: Table) -> str:
    return "table-" + re.sub(r"[^a-z0-9]+", "-", table.title.lower()).strip("-")


# Details.


def _evenly(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, evenly spaced, with the first and the last; if only one, the last."""
    if count <= most:
        return list(range(count))
    if most < 2:
        return [count - 1] * most
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: float) -> float:
    return float(f"{value:.6g}")

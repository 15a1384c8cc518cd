"""`compare`: tables of what runs reached and what they took, from what they left behind; without torch."""

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands.records.protocols import in_words
from commands.records.run_folder import runs_at
from commands.records.tables import SPREAD, Group, Table, groups, summary, tables
from media.files import write_text_whole


def parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    parser = argparse.ArgumentParser(
        prog="python main.py compare",
        description="Sets runs side by side: quality by protocol, time, parameters, memory, data, what went wrong.",
    )
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN",
        help="a run's folder, runs/<name>/<id>, or all of a name, runs/<name>; several seeds become mean ± deviation",
    )  # fmt: skip
    parser.add_argument("--html", type=Path, metavar="X.html", help="write a page with curves and sample grids")
    parser.add_argument("--md", type=Path, metavar="X.md", help="write the tables as Markdown")
    parser.add_argument("--csv", type=Path, metavar="X.csv", help="write every run's values: run, table, column, value")
    parser.add_argument("--grids", type=int, default=12, help="sample grids of each run in the page, at most (12)")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Compares and prints; the tables go to the terminal unless a file was asked for."""
    options = parser().parse_args(arguments)
    if options.grids < 0:
        raise ValueError(f"--grids must not be negative, and is {options.grids}")
    for option, suffix in (("html", ".html"), ("md", ".md"), ("csv", ".csv")):
        path = getattr(options, option)
        if path is not None and path.suffix != suffix:
            raise ValueError(f"--{option} {path}: name a file that ends in {suffix}")
    found = groups(runs_at(options.runs))
    made = tables(found)
    readable = [summary(found, made), *made]
    written = []
    if options.md is not None:
        written.append((options.md, f"# Comparison of {_count(found)}\n\n{as_markdown(readable)}"))
    if options.csv is not None:
        written.append((options.csv, as_csv(made)))
    if options.html is not None:
        from commands.records.page import page

        written.append((options.html, page(found, readable, options.grids)))
    for path, text in written:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_whole(path, text)
        print(f"{path}: {_count(found)}, {len(text.encode()) / 1e6:.2g} MB", file=sys.stderr)
    if not written:
        print(as_markdown(readable), end="")
    return 0


@dataclass(frozen=True)
class Line:
    """A line of the CSV."""

    run: str
    table: str
    column: str
    value: Any


def as_markdown(made: Sequence[Table]) -> str:
    """The tables, aligned, so that they can be read in a terminal as they are."""
    return "\n".join(
        f"## {table.title}\n\n{_aligned(table)}\n" + (f"\n{table.note}\n" if table.note else "") for table in made
    )


def as_csv(made: Sequence[Table]) -> str:
    """One long table of every single run's values, in full precision; pooled rows are left to who reads it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "table", "column", "value"])
    for line in _lines(made):
        writer.writerow([line.run, line.table, line.column, line.value])
    return text.getvalue()


def _lines(made: Sequence[Table]) -> list[Line]:
    lines = []
    for table in made:
        for row in table.rows:
            for run, values in zip(row.runs, row.values, strict=True):
                for column in table.columns:
                    for name in (column.name, column.name + SPREAD):
                        if values.get(name) is not None:
                            lines.append(Line(run.label, table.title, name, values[name]))
                if table.panel is not None:
                    lines.append(Line(run.label, table.title, "protocol", in_words(table.panel)))
    return lines


def _aligned(table: Table) -> str:
    best = {column.name: table.best(column) for column in table.columns}
    columns = [column for column in table.columns if any(table.cell(row, column) for row in table.rows)]
    lines = [["run", *(column.name for column in columns)]]
    for row in table.rows:
        cells = [table.cell(row, column) for column in columns]
        marked = [f"**{cell}**" if best[c.name] is row else cell for cell, c in zip(cells, columns, strict=True)]
        lines.append([row.label, *marked])
    lines = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns) + 1)]
    right = [False, *(column.kind != "text" for column in columns)]
    rule = [
        f"{'-' * (max(width, 3) - 1)}{':' if at_right else '-'}" for width, at_right in zip(widths, right, strict=True)
    ]
    padded = [
        [c.rjust(max(w, 3)) if r else c.ljust(max(w, 3)) for c, w, r in zip(line, widths, right, strict=True)]
        for line in lines
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]])


def _count(found: Sequence[Group]) -> str:
    count = sum(len(group.runs) for group in found)
    return "1 run" if count == 1 else f"{count} runs"

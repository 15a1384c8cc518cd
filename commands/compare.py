"""`compare`: tables of the quality and cost of runs, from their folders; without torch."""

import argparse
import csv
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from commands.comparison.markdown import as_markdown
from commands.comparison.protocols import in_words
from commands.comparison.tables import Table, counted, groups, summary, tables
from commands.options.parsers import require_least, require_suffix, verb_parser
from media.files import write_text_whole
from records.folder import runs_at


def parser() -> argparse.ArgumentParser:
    parser = verb_parser("compare", "Compares runs: quality by protocol, time, parameters, memory, data, problems.")
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN",
        help="a run's folder, runs/<name>/<id>, or all runs of a name, runs/<name>; seeds are pooled: mean ± deviation",
    )  # fmt: skip
    parser.add_argument("--html", type=Path, metavar="X.html", help="write a page with curves and sample grids")
    parser.add_argument("--md", type=Path, metavar="X.md", help="write the tables as Markdown")
    parser.add_argument("--csv", type=Path, metavar="X.csv", help="write all values: run, table, column, value")
    parser.add_argument("--grids", type=int, default=12, help="sample grids of each run in the page, at most (12)")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Compares runs; the tables go to the terminal unless a file is asked for."""
    options = parser().parse_args(arguments)
    require_least(options, {"grids": 0})
    for option in ("html", "md", "csv"):
        if (path := vars(options)[option]) is not None:
            require_suffix(option, path, [f".{option}"])
    found = groups(runs_at(options.runs))
    made = tables(found)
    readable = [summary(found, made), *made]
    written = []
    if options.md is not None:
        written.append((options.md, f"# Comparison of {counted(found)}\n\n{as_markdown(readable)}"))
    if options.csv is not None:
        written.append((options.csv, as_csv(made)))
    if options.html is not None:
        from commands.comparison.page import page

        written.append((options.html, page(found, readable, options.grids)))
    for path, text in written:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_whole(path, text)
        print(f"{path}: {counted(found)}, {len(text.encode()) / 1e6:.2g} MB", file=sys.stderr)
    if not written:
        print(as_markdown(readable), end="")
    return 0


def as_csv(made: Sequence[Table]) -> str:
    """One long table with the values of every single run in full precision, not pooled over seeds."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("run", "table", "column", "value"), *_lines(made)])
    return text.getvalue()


def _lines(made: Sequence[Table]) -> Iterator[tuple[str, str, str, Any]]:
    for table in made:
        for row in table.rows:
            for number, (run, values) in enumerate(zip(row.runs, row.values, strict=True)):
                for column in table.columns:
                    pair = {column.name: values.get(column.name), f"{column.name} ±": row.spread(number, column.name)}
                    yield from ((run.label, table.title, name, v) for name, v in pair.items() if v is not None)
                if table.panel is not None:
                    yield run.label, table.title, "protocol", in_words(table.panel)

"""The tables of a comparison, from the folders of runs; other modules format them."""

import datetime
import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from commands.comparison.protocols import Panel, difference, in_words, panels
from records.figures import Direction, best_of
from records.folder import RunFolder
from records.record import printable

Kind = Literal["text", "count", "number", "duration"]

QUALITY, LIKELIHOODS = "Quality", "Bits per dimension"

BOUNDS = {
    "lower bound": "bounds: the likelihood is at least this high, so the bits are at most these",
    "estimate": "estimates, neither exact nor bounds",
    "exact": "exact",
}


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only; often a single run."""

    label: str
    runs: tuple[RunFolder, ...]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: its title, with the unit.
        kind: the format of its values; durations are in seconds.
        better: the direction in which values are better, if the best is to be marked.
    """

    name: str
    kind: Kind = "text"
    better: Direction | None = None


@dataclass(frozen=True)
class Row:
    """The values of a group's runs.

    Attributes:
        label: the title of the row.
        runs: the runs.
        values: for each run, its values by column name.
        spreads: for each run, the spreads of values that have one; () if none has.
    """

    label: str
    runs: tuple[RunFolder, ...]
    values: tuple[dict[str, Any], ...]
    spreads: tuple[dict[str, float | None], ...] = ()

    def spread(self, run: int, column: str) -> float | None:
        return self.spreads[run].get(column) if self.spreads else None


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        title: in a few words.
        columns: all but the first, which names the run.
        rows: a row for each group.
        note: sentences on what is counted and how it was measured.
        panel: the figures that it shows, if it shows figures.
        place: " 2" for the second of several protocols, "" for the only one.
        of: what a row describes, in a word.
    """

    title: str
    columns: list[Column]
    rows: list[Row]
    note: str = ""
    panel: Panel | None = None
    place: str = ""
    of: str = "run"

    def cell(self, row: Row, column: Column) -> str:
        """The text of a cell; several runs' numbers become mean ± standard deviation."""
        found = [values[column.name] for values in row.values if values.get(column.name) is not None]
        if not found:
            return ""
        if column.kind == "text":
            return " / ".join(dict.fromkeys(printable(value) for value in found))
        if len(set(found)) > 1:
            return _with_spread(statistics.fmean(found), statistics.stdev(found), column.kind)
        return _with_spread(found[0], row.spread(0, column.name) if len(row.values) == 1 else None, column.kind)

    def number(self, row: Row, column: Column) -> float | None:
        """The numeric value of a cell, by which rows are sorted; None for text."""
        found = [values[column.name] for values in row.values if values.get(column.name) is not None]
        return None if column.kind == "text" or not found else statistics.fmean(found)

    def best(self, column: Column) -> Row | None:
        """The row with the best value; None without a direction or a choice."""
        found = [(value, row) for row in self.rows if (value := self.number(row, column)) is not None]
        if column.better is None or len({row.runs[0].folder for _, row in found}) < 2:
            return None
        return best_of(found, lambda pair: pair[0], column.better)[1]


def groups(runs: Sequence[RunFolder]) -> list[Group]:
    """Pools runs of equal configuration and samples seen over their seeds.

    The newest run of each seed is pooled, so that a repetition never counts as another seed.
    """
    pools: dict[tuple[object, ...], list[RunFolder]] = {}
    repeated: Counter[tuple[object, ...]] = Counter()
    for run in sorted(runs, key=lambda run: run.folder.name, reverse=True):
        key = _pooled_by(run)
        repeated[key, str(run.seed)] += 1
        pools.setdefault((key, repeated[key, str(run.seed)]), []).append(run)
    order = {id(run): i for i, run in enumerate(runs)}
    ordered = sorted(pools.values(), key=lambda pool: min(order[id(run)] for run in pool))
    names = Counter(pool[0].name for pool in ordered)
    labels = Counter(run.label for run in runs)
    found = []
    for pool in ordered:
        pool.sort(key=lambda run: order[id(run)])
        first = pool[0]
        label = first.label if labels[first.label] == 1 else printable(first.folder)
        label = printable(first.name) if names[first.name] == 1 else label
        found.append(Group(label if len(pool) == 1 else f"{label} ({len(pool)} seeds)", tuple(pool)))
    return found


def counted(found: Sequence[Group]) -> str:
    """The number of runs, in words."""
    count = sum(len(group.runs) for group in found)
    return "1 run" if count == 1 else f"{count} runs"


def tables(found: Sequence[Group]) -> list[Table]:
    """All tables that have content, in reading order."""
    made = [_runs(found), *_figures(found, False), *_figures(found, True), _time(found), _parameters(found),
            _memory(found), _data(found), _machine(found), problems(found)]  # fmt: skip
    return [table for table in made if table.rows]


SUMMARIZED = 3
"""Most protocols of quality, and of likelihood, with a column in the summary, which says if there are more."""

SHARABLE = ("what went wrong", "data", "hardware", "memory read from")
"""Columns of the summary that become a sentence if all runs agree."""


def summary(found: Sequence[Group], made: Sequence[Table]) -> Table:
    """The main facts, a row for each group: quality, cost, problems.

    Each protocol has its own column, so that different ones are never ranked together. The note has what all runs
    share.
    """
    judged = [table for table in made if table.panel is not None]
    bits = [table for table in judged if table.panel is not None and table.panel.is_likelihood]
    figures = [(table, _headline(table)) for table in
               [each for each in judged if each not in bits][:SUMMARIZED] + bits[:SUMMARIZED]]  # fmt: skip

    def values(run: RunFolder) -> tuple[dict[str, Any], dict[str, float | None]]:
        record, cells, spreads = run.record, {}, {}
        for table, column in figures:
            assert table.panel is not None
            name = table.panel.names[0]
            found_here = [m for m in table.panel.measurements if m.run is run and m.name == name]
            known = [m for m in found_here if m.figure.value is not None]
            # The one measured last, of several at the same number of samples.
            newest = max(reversed(known), key=lambda m: m.samples_seen or 0, default=None)
            if newest is not None:
                cells[column.name], spreads[column.name] = newest.figure.value, newest.figure.spread
        data, machine = record.data, record.hardware
        device = machine.gpu or machine.cpu
        cores = f", {machine.cores} cores" if machine.cores and not machine.gpu else ""
        return cells | {
            "model": record.model.name,
            "wall time": record.seconds,
            "kimg": record.kimg,
            "s/kimg": record.throughput.s_per_kimg,
            "parameters": sum(record.parameters.values()) or None,
            "memory (GiB)": record.memory.training_peak_gib,
            "memory read from": record.memory.source,
            "data": f"{data.name}, {data.train_size:,} examples" if data.name and data.train_size is not None
            else data.name or None,
            "hardware": f"{record.devices} x {device}{cores}" if device and record.devices > 1
            else device and f"{device}{cores}",
            "what went wrong": ", ".join(problem.short for problem in problems_of(run))
            or ("nothing found" if run.diagnosis else "not diagnosed"),
        }, spreads  # fmt: skip

    columns = [*(column for _, column in figures), Column("wall time", "duration"), Column("kimg", "number"),
               Column("s/kimg", "number"), Column("parameters", "count"), Column("memory (GiB)", "number"),
               Column("what went wrong"), Column("model"), Column("data"), Column("hardware"),
               Column("memory read from")]  # fmt: skip
    both = [(group, [values(run) for run in group.runs]) for group in found]
    rows = [Row(group.label, group.runs, tuple(v for v, _ in own), tuple(s for _, s in own)) for group, own in both]
    table = Table("At a glance", columns, rows)
    shared = [column for column in columns if column.name in SHARABLE]
    shared = [c for c in shared if len(table.rows) > 1 and len({table.cell(row, c) for row in table.rows}) == 1]
    note = [
        "Figures are the newest. Figures in one column have one protocol; do not compare different columns. Memory is "
        "the peak of training steps. s/kimg is training alone."
    ]
    if any(problem.suspected for group in found for run in group.runs for problem in problems_of(run)):
        note.append("A ? marks a suspicion.")
    if len(judged) > len(figures):
        note.append(f"Figures of {len(judged) - len(figures)} further protocols are in their own tables.")
    same = [f"{column.name}: {cell}" for column in shared if (cell := table.cell(table.rows[0], column))]
    if same:
        note.append(f"The same for all: {'; '.join(same)}.")
    return Table(table.title, [c for c in columns if c not in shared], table.rows, " ".join(note))


def differing_settings(found: Sequence[Group]) -> Table:
    """Keys of config.yaml that differ between runs: a row for each key, a column for each group."""
    flat = [[dict(_leaves(run.config)) for run in group.runs] for group in found]
    keys = dict.fromkeys(key for group in flat for config in group for key in config)
    columns = [Column(group.label) for group in found]
    rows = []
    for key in keys:
        cells = [
            " / ".join(dict.fromkeys(json.dumps(config[key]) if key in config else "not set" for config in group))
            for group in flat
        ]
        if len(set(cells)) > 1 and key not in ("run.root", "run.name"):
            values = {column.name: cell for column, cell in zip(columns, cells, strict=True)}
            rows.append(Row(printable(key), (), (values,)))
    note = "From config.yaml; `not set` if a run lacks the key."
    return Table("Settings that differ", columns, rows, note, of="setting")


# The tables.


def _rows(found: Sequence[Group], values: Callable[[RunFolder], dict[str, Any]]) -> list[Row]:
    made = [Row(group.label, group.runs, tuple(values(run) for run in group.runs)) for group in found]
    return [row for row in made if any(v is not None for each in row.values for v in each.values())]


def table_of(
    title: str, found: Sequence[Group], cells: Callable[[RunFolder], dict[Column, Any]], note: str = ""
) -> Table:
    """A table with a row for each group, from the cells of each run by column."""
    columns = dict.fromkeys(column for group in found for run in group.runs for column in cells(run))
    rows = _rows(found, lambda run: {column.name: value for column, value in cells(run).items()})
    return Table(title, list(columns), rows, note)


def _runs(found: Sequence[Group]) -> Table:
    def cells(run: RunFolder) -> dict[Column, Any]:
        record = run.record
        return {Column("model"): record.model.name, Column("status"): run.status, Column("kimg", "number"): record.kimg,
                Column("seed"): run.seed, Column("started"): (record.started or "")[:16].replace("T", " "),
                Column("began with"): record.began_with, Column("folder"): str(run.folder)}  # fmt: skip

    return table_of("Runs", found, cells)


def _figures(found: Sequence[Group], likelihood: bool) -> list[Table]:
    group_of = {id(run): group for group in found for run in group.runs}
    all_panels = panels([run for group in found for run in group.runs], likelihood)
    made: list[Table] = []
    for number, panel in enumerate(all_panels, 1):
        name = LIKELIHOODS if likelihood else QUALITY
        place = f" {number}" if len(all_panels) > 1 else ""
        note = [f"Protocol: {in_words(panel)}."]
        if number > 1:
            note.insert(0, f"Do not compare with {name} 1: {difference(panel, all_panels[0])}.")
        kind = f" ({panel.likelihood})" if panel.likelihood else ""
        if likelihood:
            about = next((words for begins, words in BOUNDS.items() if panel.likelihood.startswith(begins)),
                         panel.likelihood)  # fmt: skip
            note.insert(0, f"The figures are {about}; lower is better.")
        columns, rows = _panel_rows(panel, group_of)
        made.append(Table(f"{name}{place}{kind}", columns, rows, " ".join(note), panel, place))
    return made


def _panel_rows(panel: Panel, group_of: dict[int, Group]) -> tuple[list[Column], list[Row]]:
    """A row for each group, samples seen and settings; a newer measurement of the same replaces an older one."""
    values: dict[tuple[str, int | None, str], dict[int, tuple[dict[str, Any], dict[str, float | None]]]] = {}
    runs = {id(m.run): m.run for m in panel.measurements}
    first = panel.names[0]
    for m in panel.measurements:
        row = values.setdefault((group_of[id(m.run)].label, m.samples_seen, m.drawn_with), {})
        cells, spreads = row.setdefault(id(m.run), ({}, {}))
        cells |= {"kimg": None if m.samples_seen is None else m.samples_seen / 1000, m.name: m.figure.value}
        spreads[m.name], best = m.figure.spread, m.figure.best
        if best is not None and m.name == first:
            cells |= {f"best {m.name}": best.value, "best at kimg": best.samples_seen / 1000}
        if m.drawn_with:
            cells["settings"] = m.drawn_with
    rows = []
    for (label, _, _), cells_of in values.items():
        whole = len(cells_of) == len(group_of[next(iter(cells_of))].runs)
        part = "" if whole else f", {len(cells_of)} of them"
        each = cells_of.values()
        rows.append(Row(label + part, tuple(runs[key] for key in cells_of), tuple(c for c, _ in each),
                        tuple(s for _, s in each)))  # fmt: skip
    columns = [Column("kimg", "number"), *(Column(name, "number", panel.better(name)) for name in panel.names)]
    has = {key for row in rows for each_run in row.values for key in each_run}
    if f"best {first}" in has:
        columns += [Column(f"best {first}", "number", panel.better(first)), Column("best at kimg", "number")]
    return columns + [Column("settings")] * ("settings" in has), rows


def _time(found: Sequence[Group]) -> Table:
    def cells(run: RunFolder) -> dict[Column, Any]:
        seconds, speed, devices = run.record.seconds, run.record.throughput, run.record.devices
        return {Column("kimg", "number"): run.record.kimg, Column("wall time", "duration"): seconds,
                Column("devices", "count"): devices,
                Column("device hours", "number"): None if seconds is None else seconds * devices / 3600,
                Column("samples/s", "number"): speed.samples_per_s,
                Column("s/kimg", "number"): speed.s_per_kimg}  # fmt: skip

    note = (
        "Wall time and device hours count everything, including evaluations; samples/s and s/kimg training alone. "
        "Times of different machines say little about the models."
    )
    return table_of("Training time", found, cells, note)


def _parameters(found: Sequence[Group]) -> Table:
    names = dict.fromkeys(name for group in found for run in group.runs for name in run.record.parameters)

    def cells(run: RunFolder) -> dict[Column, Any]:
        networks = run.record.parameters
        counts = {Column(printable(name), "count"): networks.get(name) for name in names}
        return {**counts, Column("all", "count"): sum(networks.values()) or None}

    return table_of("Parameters", found, cells)


def _memory(found: Sequence[Group]) -> Table:
    phases = dict.fromkeys(phase for group in found for run in group.runs for phase in run.record.memory.peak_gib)

    def cells(run: RunFolder) -> dict[Column, Any]:
        memory = run.record.memory
        activations = [size for name, size in memory.kept_bytes.items() if name.startswith("activations")]
        state = sum(memory.kept_bytes.values()) - sum(activations)
        return {
            **{Column(printable(phase), "number"): memory.peak_gib.get(phase) for phase in phases},
            Column("parameters, gradients, optimizer, averages (MiB)", "number"): state / 2**20 if state else None,
            Column("activations (MiB)", "number"): max(activations) / 2**20 if activations else None,
            Column("read from"): memory.source,
        }

    note = (
        "Highest GiB by phase. A CPU's resident set counts the whole process, including libraries; CUDA's allocator "
        "counts tensors: do not compare the two. Activations are what autograd keeps, in the step that keeps most."
    )
    return table_of("Peak memory", found, cells, note)


def _data(found: Sequence[Group]) -> Table:
    def cells(run: RunFolder) -> dict[Column, Any]:
        data = run.record.data
        return {Column("data"): data.name or None, Column("training examples", "count"): data.train_size,
                Column("shape"): None if data.data_shape is None else " x ".join(map(str, data.data_shape)),
                Column("classes", "count"): data.num_classes,
                Column("fingerprint"): (data.fingerprint or "")[:12] or None}  # fmt: skip

    return table_of("Data", found, cells)


def _machine(found: Sequence[Group]) -> Table:
    def cells(run: RunFolder) -> dict[Column, Any]:
        machine, commit = run.record.hardware, run.record.commit or ""
        return {Column("device"): machine.gpu or machine.cpu, Column("cores", "count"): machine.cores,
                Column("threads", "count"): machine.threads,
                Column("memory (GiB)", "number"): machine.gpu_gib or machine.memory_gib,
                Column("precision"): run.record.precision,
                **{Column(name): run.record.versions.get(name) for name in ("torch", "lightning", "python")},
                Column("commit"): commit[:10] + "+" * commit.endswith("+") or None}  # fmt: skip

    return table_of("Hardware and versions", found, cells, "A + marks uncommitted changes of the code.")


@dataclass(frozen=True)
class Problem:
    """A problem of a run, the evidence, and the usual remedy."""

    what: str
    says: str
    helps: str | None = None
    verdict: str | None = None
    """Of a diagnosis: "suspect" or "found"."""

    @property
    def suspected(self) -> bool:
        return self.verdict == "suspect"

    @property
    def short(self) -> str:
        """Text for a table cell."""
        return f"{self.what}?" if self.suspected else self.what


def problems(found: Sequence[Group]) -> Table:
    """The problems of all runs, a row for each."""
    runs = [run for group in found for run in group.runs]
    rows = [
        Row(run.label, (run,), ({"what": f"{problem.what}: {problem.verdict}" if problem.verdict else problem.what,
                                 "says": problem.says, "what usually helps": problem.helps},))
        for run in runs
        for problem in problems_of(run)
    ]  # fmt: skip
    looked = [run for run in runs if run.diagnosis]
    note = f"{len(looked)} of {len(runs)} runs were diagnosed (`diagnose`, or `--diagnosis.every_kimg`)"
    note += "." if len(looked) == len(runs) else "; the others may have problems that only a diagnosis finds."
    columns = [Column("what"), Column("says"), Column("what usually helps")]
    return Table("What went wrong", columns, rows, note)


def problems_of(run: RunFolder) -> list[Problem]:
    """The problems of one run."""
    found = []
    if run.status == "running":
        path = run.folder / "metrics.jsonl"
        last = (path if path.exists() else run.folder / "run.json").stat().st_mtime
        since = datetime.datetime.fromtimestamp(last, datetime.UTC).strftime("%Y-%m-%d %H:%M")
        found.append(Problem("not finished", f"it is running, or was killed; its last output is of {since} UTC"))
    elif run.status == "stopped":
        says = "a signal ended it before its budget was used up"
        found.append(Problem("stopped", says, "fit --ckpt_path last resumes it"))
    elif run.status != "done":
        found.append(Problem(run.status, printable(run.record.error or "without an error message")))
    if damaged := run.damaged_lines():
        lines = "1 line" if damaged == 1 else f"{damaged} lines"
        found.append(Problem("damaged", f"{lines} of metrics.jsonl cannot be read, and the curves omit them"))
    if (no_number := run.no_number()) is not None:
        found.append(Problem("not finite", no_number))
    for name, figure in run.record.figures.items():
        if figure.value is None:
            found.append(Problem("not finite", f"the newest {printable(name)} is not a number"))
    for finding in run.diagnosis.findings if run.diagnosis else ():
        if finding.verdict in ("suspect", "found"):
            says = printable(finding.says)
            found.append(Problem(printable(finding.name), says, finding.helps or None, finding.verdict))
    return found


# Details.


def _headline(table: Table) -> Column:
    """The column of a protocol's main figure in the summary, with a reference to its table."""
    panel = table.panel
    assert panel is not None
    name = panel.names[0]
    if panel.is_likelihood:
        kind = next((bound for bound in BOUNDS if panel.likelihood.startswith(bound)), panel.likelihood)
        title = f"{name}{table.place} ({kind})"
    else:
        title = f"{name} ({QUALITY}{table.place})" if table.place else name
    return Column(title, "number", panel.better(name))


def _pooled_by(run: RunFolder) -> tuple[object, ...]:
    """What runs must share to be pooled."""
    config = {key: value for key, value in run.config.items() if key not in ("seed_everything", "run", "ckpt_path")}
    if not config:
        return (str(run.folder),)
    record = run.record
    machine = [record.hardware.kind, record.precision, record.devices, record.samples_seen, record.status]
    return (run.name, json.dumps([config, machine], sort_keys=True, default=str))


def _leaves(value: object, key: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}" if key else str(name))
    else:
        yield key, value


def _with_spread(value: float, spread: float | None, kind: Kind) -> str:
    if kind == "duration":
        unit, name = (3600, "h") if value >= 3600 else (60, "min") if value >= 60 else (1, "s")
        return f"{_with_spread(value / unit, None if spread is None else spread / unit, 'number')} {name}"
    if spread is None or not math.isfinite(spread) or (spread == 0 and kind == "count"):
        return f"{value:,.0f}" if kind == "count" else number(value)
    # Two digits of the spread.
    decimals = max(0, 1 - math.floor(math.log10(spread))) if spread > 0 else 2
    if decimals > 5:
        return number(value) if spread < 1e-9 * abs(value) else f"{number(value)} ± {spread:.1g}"
    return f"{value:,.{decimals}f} ± {spread:,.{decimals}f}"


def number(value: float) -> str:
    """Four digits, or all digits of numbers from a thousand."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"

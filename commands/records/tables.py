"""The tables of a comparison, from what runs leave behind; how they look is left to who writes them."""

import datetime
import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from commands.records.protocols import Panel, difference, in_words, is_likelihood, panels
from commands.records.run_folder import RunFolder, printable

Kind = Literal["text", "count", "number", "duration"]

BOUNDS = {
    "lower bound": "a bound: the likelihood is at least this high, so that the bits are at most these",
    "estimate": "an estimate, neither exact nor a bound",
    "exact": "exact",
}


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seed; mostly one."""

    label: str
    runs: tuple[RunFolder, ...]


@dataclass(frozen=True)
class Column:
    """What a column holds.

    Attributes:
        name: Its title, with the unit.
        kind: How values are written; durations are in seconds.
        better: Which way is better, where the best value is to be marked.
    """

    name: str
    kind: Kind = "text"
    better: str | None = None


@dataclass(frozen=True)
class Row:
    """Values of some runs of a group, one dictionary a run, by the columns' names; a spread under name + SPREAD."""

    label: str
    runs: tuple[RunFolder, ...]
    values: tuple[dict[str, Any], ...]


SPREAD = " ±"
QUALITY = "Quality"
LIKELIHOOD = "Bits per dimension"
PROBLEMS = "What went wrong"


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        title: In a few words.
        columns: All but the first, which names the run.
        rows: A row a group.
        note: Sentences on what is counted, and how it was measured.
        panel: Of figures: those that it shows.
    """

    title: str
    columns: list[Column]
    rows: list[Row]
    note: str = ""
    panel: Panel | None = None

    def cell(self, row: Row, column: Column) -> str:
        """A cell's text; several runs' numbers as mean ± standard deviation."""
        found = [values[column.name] for values in row.values if values.get(column.name) is not None]
        if not found:
            return ""
        if column.kind == "text":
            return " / ".join(dict.fromkeys(printable(value) for value in found))
        if len(set(found)) > 1:
            return _with_spread(statistics.fmean(found), statistics.stdev(found), column.kind)
        spread = row.values[0].get(column.name + SPREAD) if len(row.values) == 1 else None
        return _with_spread(found[0], spread, column.kind)

    def number(self, row: Row, column: Column) -> float | None:
        """A cell's value, by which rows are sorted; None for text."""
        found = [values[column.name] for values in row.values if values.get(column.name) is not None]
        return None if column.kind == "text" or not found else statistics.fmean(found)

    def best(self, column: Column) -> Row | None:
        """The row with the best value; None where no way is better, or there is nothing to choose from."""
        found = [(value, row) for row in self.rows if (value := self.number(row, column)) is not None]
        if column.better is None or len({row.runs[0].folder for _, row in found}) < 2:
            return None
        choose: Callable[..., tuple[float, Row]] = min if column.better == "lower" else max
        return choose(found, key=lambda pair: pair[0])[1]


def groups(runs: Sequence[RunFolder]) -> list[Group]:
    """The runs, those of one configuration and as many samples with several seeds together.

    Of several runs with one seed the newest stands for it, so that a repetition never passes for another seed.
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
    """How many runs there are, in words."""
    count = sum(len(group.runs) for group in found)
    return "1 run" if count == 1 else f"{count} runs"


def tables(found: Sequence[Group]) -> list[Table]:
    """Every table that has something to show, in the order in which one reads them."""
    made = [_runs(found), *_figures(found, False), *_figures(found, True), _time(found), _parameters(found),
            _memory(found), _data(found), _machine(found), problems(found)]  # fmt: skip
    return [table for table in made if table.rows]


SUMMARIZED = 3
"""Protocols of quality, and of likelihood, that the summary has a column for; in a comparison of more, it says so."""

SHARABLE = ("what went wrong", "data", "hardware", "memory read from")
"""Columns of the summary that become a sentence where every run has the same."""


def summary(found: Sequence[Group], made: Sequence[Table]) -> Table:
    """What is asked first, a row a group: how good, at what price, how it failed; all of it from the other tables.

    A protocol has a column of its own, so that none is ranked against another; what all runs share is in the note.
    """
    judged = [table for table in made if table.panel is not None]
    figures = []
    bits = [table for table in judged if is_likelihood(table.columns[1].name)]
    for table in [each for each in judged if each not in bits][:SUMMARIZED] + bits[:SUMMARIZED]:
        first = table.columns[1]  # the panel's first figure; before it stands kimg
        figures.append((table, first.name, Column(_headline(table), "number", first.better)))
    wrong: dict[int, list[str]] = {}
    for table in made:
        for row in table.rows if table.title == PROBLEMS else ():
            what = row.values[0]["what"].removesuffix(": found")
            wrong.setdefault(id(row.runs[0]), []).append(re.sub(": suspect$", "?", what))

    def values(run: RunFolder) -> dict[str, Any]:
        cells: dict[str, Any] = {}
        for table, name, column in figures:
            own = [row.values[row.runs.index(run)] for row in table.rows if run in row.runs]
            # Of several at the same number of samples the one measured last.
            known = [each for each in reversed(own) if each.get(name) is not None]
            if known:
                newest = max(known, key=lambda each: each["kimg"] or 0)
                cells |= {column.name: newest[name], column.name + SPREAD: newest.get(name + SPREAD)}
        record = run.record
        data, machine = record.get("data") or {}, record.get("hardware") or {}
        named = str(data.get("class_path", "")).rpartition(".")[2]
        examples = data.get("train_size")
        device, count = machine.get("gpu") or machine.get("cpu"), record.get("devices") or 1
        cores = f", {machine['cores']} cores" if machine.get("cores") and not machine.get("gpu") else ""
        return cells | {
            "model": run.model,
            "wall time": record.get("seconds"),
            "kimg": run.kimg,
            "s/kimg": (record.get("throughput") or {}).get("s_per_kimg"),
            "parameters": sum((record.get("parameters") or {}).values()) or None,
            "memory (GiB)": training_peak_gib(run),
            "memory read from": (record.get("memory") or {}).get("source"),
            "data": f"{named}, {examples:,} examples" if named and examples is not None else named or None,
            "hardware": f"{count} x {device}{cores}" if device and count > 1 else device and f"{device}{cores}",
            "what went wrong": ", ".join(wrong.get(id(run), []))
            or ("nothing found" if run.diagnosis else "not diagnosed"),
        }

    columns = [*(column for _, _, column in figures), Column("wall time", "duration"), Column("kimg", "number"),
               Column("s/kimg", "number"), Column("parameters", "count"), Column("memory (GiB)", "number"),
               Column("what went wrong"), Column("model"), Column("data"), Column("hardware"),
               Column("memory read from")]  # fmt: skip
    table = Table("At a glance", columns, _rows(found, values))
    shared = [column for column in columns if column.name in SHARABLE]
    shared = [c for c in shared if len(table.rows) > 1 and len({table.cell(row, c) for row in table.rows}) == 1]
    note = [
        "Figures are the newest; those of a column have one protocol, those of two columns do not compare. Memory is "
        "the peak of training steps; s/kimg is training alone."
    ]
    if any(what.endswith("?") for each in wrong.values() for what in each):
        note.append("A ? marks what is only suspected.")
    if len(judged) > len(figures):
        note.append(f"Figures of {len(judged) - len(figures)} further protocols stand in their own tables.")
    same = [f"{column.name}: {cell}" for column in shared if (cell := table.cell(table.rows[0], column))]
    if same:
        note.append(f"The same for all: {'; '.join(same)}.")
    return Table(table.title, [c for c in columns if c not in shared], table.rows, " ".join(note))


def differing_settings(found: Sequence[Group]) -> Table:
    """Keys of config.yaml that are not the same in all runs, a row a key and a column a group."""
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
    return Table("Settings that differ", columns, rows, "From config.yaml, `not set` where a run has no such key.")


# The tables.


def _rows(found: Sequence[Group], values: Callable[[RunFolder], dict[str, Any]]) -> list[Row]:
    made = [Row(group.label, group.runs, tuple(values(run) for run in group.runs)) for group in found]
    return [row for row in made if any(v is not None for each in row.values for v in each.values())]


def table_of(
    title: str, found: Sequence[Group], cells: Callable[[RunFolder], dict[Column, Any]], note: str = ""
) -> Table:
    """A row a group, of what each run has by column."""
    columns = dict.fromkeys(column for group in found for run in group.runs for column in cells(run))
    rows = _rows(found, lambda run: {column.name: value for column, value in cells(run).items()})
    return Table(title, list(columns), rows, note)


def _runs(found: Sequence[Group]) -> Table:
    def cells(run: RunFolder) -> dict[Column, Any]:
        origin = (run.record.get("init_from") or {}).get("path") or (run.record.get("origin") or {}).get("code")
        return {Column("model"): run.model, Column("status"): run.status, Column("kimg", "number"): run.kimg,
                Column("seed"): run.seed, Column("started"): (run.record.get("started") or "")[:16].replace("T", " "),
                Column("began with"): origin, Column("folder"): str(run.folder)}  # fmt: skip

    return table_of("Runs", found, cells)


def _figures(found: Sequence[Group], likelihood: bool) -> list[Table]:
    group_of = {id(run): group for group in found for run in group.runs}
    all_panels = panels([run for group in found for run in group.runs], likelihood)
    made: list[Table] = []
    for number, panel in enumerate(all_panels, 1):
        name = LIKELIHOOD if likelihood else QUALITY
        title = name if len(all_panels) == 1 else f"{name} {number}"
        note = [f"Protocol: {in_words(panel)}."]
        if number > 1:
            note.insert(0, f"Not to be compared with {name} 1: {difference(panel, all_panels[0])}.")
        if likelihood:
            kind = panel.protocol.get("likelihood", "")
            title += f" ({kind})" if kind else ""
            about = next((words for begins, words in BOUNDS.items() if kind.startswith(begins)), kind)
            note.insert(0, f"The figures are {about}; lower is better.")
        columns, rows = _panel_rows(panel, group_of)
        made.append(Table(title, columns, rows, " ".join(note), panel))
    return made


def _panel_rows(panel: Panel, group_of: dict[int, Group]) -> tuple[list[Column], list[Row]]:
    """A row for each group, samples seen and settings; a newer measurement of the same replaces an older one."""
    values: dict[tuple[str, int | None, str], dict[int, dict[str, Any]]] = {}
    runs = {id(m.run): m.run for m in panel.measurements}
    names = list(dict.fromkeys(m.name for m in panel.measurements))
    for m in panel.measurements:
        cells = values.setdefault((group_of[id(m.run)].label, m.samples_seen, m.drawn_with), {}).setdefault(
            id(m.run), {}
        )
        seen = None if m.samples_seen is None else m.samples_seen / 1000
        cells |= {"kimg": seen, m.name: m.value, m.name + SPREAD: m.spread}
        if m.best is not None and m.name == names[0]:
            cells |= {f"best {m.name}": m.best, "best at kimg": m.best_kimg}
        if m.drawn_with:
            cells["settings"] = m.drawn_with
    rows = []
    for (label, _, _), cells_of in values.items():
        whole = len(cells_of) == len(group_of[next(iter(cells_of))].runs)
        members = tuple(runs[key] for key in cells_of)
        part = "" if whole else f", {len(cells_of)} of them"
        rows.append(Row(label + part, members, tuple(cells_of.values())))
    columns = [Column("kimg", "number"), *(Column(name, "number", panel.better(name)) for name in names)]
    has = {key for row in rows for each in row.values for key in each}
    if f"best {names[0]}" in has:
        columns += [Column(f"best {names[0]}", "number", panel.better(names[0])), Column("best at kimg", "number")]
    return columns + [Column("settings")] * ("settings" in has), rows


def _time(found: Sequence[Group]) -> Table:
    def cells(run: RunFolder) -> dict[Column, Any]:
        seconds, speed = run.record.get("seconds"), run.record.get("throughput") or {}
        devices = run.record.get("devices") or 1
        return {Column("kimg", "number"): run.kimg, Column("wall time", "duration"): seconds,
                Column("devices", "count"): devices,
                Column("device hours", "number"): None if seconds is None else seconds * devices / 3600,
                Column("samples/s", "number"): speed.get("samples_per_s"),
                Column("s/kimg", "number"): speed.get("s_per_kimg")}  # fmt: skip

    note = (
        "Wall time and device hours count everything, evaluations too; samples/s and s/kimg training alone. "
        "Times of different machines say little about the models."
    )
    return table_of("Training time", found, cells, note)


def _parameters(found: Sequence[Group]) -> Table:
    names = dict.fromkeys(name for group in found for run in group.runs for name in run.record.get("parameters") or {})

    def cells(run: RunFolder) -> dict[Column, Any]:
        networks = run.record.get("parameters") or {}
        counts = {Column(printable(name), "count"): networks.get(name) for name in names}
        return {**counts, Column("all", "count"): sum(networks.values()) or None}

    return table_of("Parameters", found, cells)


def peak_gib(run: RunFolder) -> dict[str, float]:
    """The peak of each phase."""
    return (run.record.get("memory") or {}).get("peak_gib") or {}


def training_peak_gib(run: RunFolder) -> float | None:
    """The highest peak of the phases that every step has; measuring, sampling and saving are left out."""
    phases = {
        phase: gib
        for phase, gib in peak_gib(run).items()
        if phase not in ("sampling", "metrics", "checkpoint", "likelihood")
    }
    return max(phases.values(), default=None)


def _memory(found: Sequence[Group]) -> Table:
    phases = dict.fromkeys(phase for group in found for run in group.runs for phase in peak_gib(run))

    def cells(run: RunFolder) -> dict[Column, Any]:
        memory = run.record.get("memory") or {}
        kept = memory.get("kept_bytes") or {}
        activations = [size for name, size in kept.items() if name.startswith("activations")]
        state = sum(kept.values()) - sum(activations)
        return {
            **{Column(printable(phase), "number"): peak_gib(run).get(phase) for phase in phases},
            Column("parameters, gradients, optimizer, averages (MiB)", "number"): state / 2**20 if state else None,
            Column("activations (MiB)", "number"): max(activations) / 2**20 if activations else None,
            Column("read from"): memory.get("source"),
        }

    note = (
        "GiB by phase, the highest. A CPU's resident set counts the whole process, libraries included; CUDA's "
        "allocator counts tensors: the two are not comparable. Activations are what autograd keeps, in the step that "
        "keeps most."
    )
    return table_of("Peak memory", found, cells, note)


def _data(found: Sequence[Group]) -> Table:
    def cells(run: RunFolder) -> dict[Column, Any]:
        data = run.record.get("data") or {}
        shape = data.get("data_shape")
        return {Column("data"): str(data.get("class_path", "")).rpartition(".")[2] or None,
                Column("training examples", "count"): data.get("train_size"),
                Column("shape"): None if shape is None else " x ".join(map(str, shape)),
                Column("classes", "count"): data.get("num_classes"),
                Column("fingerprint"): str(data.get("fingerprint") or "")[:12] or None}  # fmt: skip

    return table_of("Data", found, cells)


def _machine(found: Sequence[Group]) -> Table:
    def cells(run: RunFolder) -> dict[Column, Any]:
        machine, versions = run.record.get("hardware") or {}, run.record.get("versions") or {}
        commit = run.record.get("commit") or ""
        return {Column("device"): machine.get("gpu") or machine.get("cpu"),
                Column("cores", "count"): machine.get("cores"), Column("threads", "count"): machine.get("threads"),
                Column("memory (GiB)", "number"): machine.get("gpu_gib") or machine.get("memory_gib"),
                Column("precision"): run.record.get("precision"),
                **{Column(name): versions.get(name) for name in ("torch", "lightning", "python")},
                Column("commit"): commit[:10] + "+" * commit.endswith("+") or None}  # fmt: skip

    return table_of("Hardware and versions", found, cells, "A + marks uncommitted changes of the code.")


def problems(found: Sequence[Group]) -> Table:
    """What went wrong, a row a problem."""
    runs = [run for group in found for run in group.runs]
    rows = [
        Row(run.label, (run,), ({"what": what, "says": says, "what usually helps": helps},))
        for run in runs
        for what, says, helps in _problems(run)
    ]
    looked = [run for run in runs if run.diagnosis]
    note = f"Of {len(runs)} runs {len(looked)} were diagnosed (`diagnose`, or `--diagnosis.every_kimg`)"
    note += "." if len(looked) == len(runs) else "; the others may hide what only a diagnosis finds."
    columns = [Column("what"), Column("says"), Column("what usually helps")]
    return Table(PROBLEMS, columns, rows, note)


def _problems(run: RunFolder) -> Iterator[tuple[str, str, str | None]]:
    if run.status == "running":
        path = run.folder / "metrics.jsonl"
        last = (path if path.exists() else run.folder / "run.json").stat().st_mtime
        since = datetime.datetime.fromtimestamp(last, datetime.UTC).strftime("%Y-%m-%d %H:%M")
        yield "not finished", f"it runs, or was killed: its last word is of {since} UTC", None
    elif run.status == "stopped":
        yield "stopped", "a signal ended it before its budget was used up", "fit --ckpt_path last goes on with it"
    elif run.status != "done":
        yield run.status, printable(run.record.get("error") or "without an error message"), None
    if damaged := run.damaged_lines():
        lines = "1 line" if damaged == 1 else f"{damaged} lines"
        yield "damaged", f"{lines} of metrics.jsonl cannot be read and left out of the curves", None
    if (no_number := run.no_number()) is not None:
        yield "not finite", no_number, None
    for name, figure in (run.record.get("figures") or {}).items():
        if figure["value"] is None:
            yield "not finite", f"the newest {printable(name)} is no number", None
    for finding in (run.diagnosis or {}).get("findings") or []:
        if isinstance(finding, dict) and finding.get("verdict") in ("suspect", "found"):
            says = printable(finding.get("says", ""))
            yield f"{printable(finding.get('name'))}: {finding['verdict']}", says, finding.get("helps") or None


# Details.


def _headline(table: Table) -> str:
    """The name of a protocol's first figure, and which table has the rest."""
    name, title = table.columns[1].name, table.title
    if not is_likelihood(name):
        return name if title == QUALITY else f"{name} ({title})"
    place, _, kind = title.partition(" (")
    number = place.removeprefix(LIKELIHOOD)
    return f"{name}{number} ({next((b for b in BOUNDS if kind.startswith(b)), kind.removesuffix(')'))})"


def _pooled_by(run: RunFolder) -> tuple[object, ...]:
    """What runs have in common whose values make one mean."""
    config = {key: value for key, value in run.config.items() if key not in ("seed_everything", "run", "ckpt_path")}
    if not config:
        return (str(run.folder),)
    machine = [run.record.get(key) for key in ("hardware", "precision", "devices", "samples_seen", "status")]
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
    # As many decimals as make two digits of the spread.
    decimals = max(0, 1 - math.floor(math.log10(spread))) if spread > 0 else 2
    if decimals > 5:
        return number(value) if spread < 1e-9 * abs(value) else f"{number(value)} ± {spread:.1g}"
    return f"{value:,.{decimals}f} ± {spread:,.{decimals}f}"


def number(value: float) -> str:
    """Four digits, of a thousand and more all of them."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"

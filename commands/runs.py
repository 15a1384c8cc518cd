"""`runs`: lists runs, finds the best of each protocol, shows disk use, removes runs; without torch."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from commands.comparison.markdown import as_markdown
from commands.comparison.protocols import in_words, panels
from commands.comparison.tables import Column, Group, Row, Table, number, table_of
from commands.options.parsers import verb_parser
from records.figures import best_of
from records.folder import RunFolder, read_run
from records.record import printable

KINDS = ("checkpoints", "samples", "wandb")


def parser() -> argparse.ArgumentParser:
    parser = verb_parser("runs", "Manages the folder of all runs.")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--root", type=Path, default=Path("runs"), help="the folder of all runs (runs)")
    verbs = parser.add_subparsers(dest="action", required=True, metavar="{list,best,disk,remove}")
    for action in ("list", "best", "disk"):
        verbs.add_parser(action, parents=[shared])
    remove = verbs.add_parser("remove", parents=[shared])
    remove.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, <root>/<name>/<id>, or <name>/<id>")
    remove.add_argument("--yes", action="store_true", help="do not ask")
    remove.add_argument("--force", action="store_true", help="also remove runs that are running, or were killed")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Performs the action and prints a table."""
    options = parser().parse_args(arguments)
    if not options.root.is_dir():
        raise FileNotFoundError(f"no folder {options.root}; give the folder of all runs by --root")
    if options.action == "remove":
        return remove(options.root, options.runs, options.yes, options.force)
    found, broken = all_runs(options.root)
    for error in broken:
        print(f"left out: {error}", file=sys.stderr)
    if not found:
        print(f"no runs in {options.root}")
        return 0
    made = {"list": listing, "best": best, "disk": disk}[options.action](found)
    print(as_markdown([made]), end="")
    return 0


def all_runs(root: Path) -> tuple[list[RunFolder], list[str]]:
    """The runs in <root>/<name>/<id>, newest last, and the errors of unreadable records."""
    found, broken = [], []
    for path in sorted(root.glob("*/*/run.json"), key=lambda path: (path.parent.name, path)):
        try:
            found.append(read_run(path.parent))
        except (OSError, ValueError) as error:
            broken.append(str(error))
    return found, broken


def listing(found: Sequence[RunFolder]) -> Table:
    """A table with a line for every run."""

    def cells(run: RunFolder) -> dict[Column, object]:
        known = {name: figure.value for name, figure in run.record.figures.items()}
        figures = [f"{printable(name)} {number(value)}" for name, value in known.items() if value is not None]
        record = run.record
        return {Column("model"): record.model.name, Column("status"): run.status, Column("kimg", "number"): record.kimg,
                Column("newest figure"): next(iter(figures), None),
                Column("size (MB)", "number"): sum(sizes(run.folder).values()) / 1e6}  # fmt: skip

    note = "Figures of different protocols cannot be compared: `runs best` and `compare` keep them apart."
    return table_of("Runs", [Group(run.label, (run,)) for run in found], cells, note)


def best(found: Sequence[RunFolder]) -> Table:
    """The best run by each figure and protocol, among the newest figures of fits and of `evaluate`."""
    rows = []
    for likelihood in (False, True):
        for panel in panels(found, likelihood):
            for name in panel.own:
                newest = {(m.run.folder, m.samples_seen, m.drawn_with): m for m in panel.measurements if m.name == name}
                candidates = [(m.figure.value, m) for m in newest.values() if m.figure.value is not None]
                better = panel.better(name)
                if better is None or not candidates:
                    continue
                value, winner = best_of(candidates, lambda pair: pair[0], better)
                values = {
                    "best run": winner.run.label,
                    "value": value,
                    "kimg": None if winner.samples_seen is None else winner.samples_seen / 1000,
                    "runs": len({m.run.folder for _, m in candidates}),
                    "better": better,
                    "protocol": in_words(panel),
                }
                rows.append(Row(name, (winner.run,), (values,)))
    columns = [Column("best run"), Column("value", "number"), Column("kimg", "number"), Column("runs", "count"),
               Column("better"), Column("protocol")]  # fmt: skip
    return Table("Best runs", columns, rows, "A line for each figure and protocol; `runs` counts the candidates.")


def disk(found: Sequence[RunFolder]) -> Table:
    """The disk space of each run, and of all."""
    rows = []
    total = dict.fromkeys((*KINDS, "other"), 0)
    for run in found:
        taken = sizes(run.folder)
        total = {kind: size + taken[kind] for kind, size in total.items()}
        rows.append(Row(run.label, (run,), (_megabytes(taken),)))
    rows.append(Row("all", tuple(found[:1]), (_megabytes(total),)))
    columns = [Column(name, "number") for name in (*KINDS, "other", "all")]
    return Table("On disk, MB", columns, rows, "Files with several names, such as last.ckpt, are counted once.")


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of a run's files by kind. Links are not followed, and a file with several names counts once."""
    taken = dict.fromkeys((*KINDS, "other"), 0)
    seen: set[tuple[int, int]] = set()
    for path in folder.rglob("*"):
        try:
            status = path.lstat()
        except FileNotFoundError:  # a fit may replace files at the same time
            continue
        if path.is_symlink() or not path.is_file() or (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        kind = path.relative_to(folder).parts[0]
        taken[kind if kind in KINDS else "other"] += status.st_size
    return taken


def remove(root: Path, names: Sequence[str], yes: bool, force: bool) -> int:
    """Deletes the folders of all the named runs, or of none.

    Raises ValueError if one is not a run of `root`, or is running.
    """
    folders = list(dict.fromkeys(_folder(root, name) for name in names))
    for folder in folders:
        try:
            status = read_run(folder).status
        except (FileNotFoundError, ValueError):
            if not (folder / "run.json").exists():
                raise
            status = "unreadable"
        if status == "running" and not force:
            raise ValueError(f"{folder} is running, or was killed; --force removes it anyway")
    size = sum(sum(sizes(folder).values()) for folder in folders) / 1e6
    listed = "\n".join(f"  {printable(folder)}" for folder in folders)
    print(f"{listed}\n{len(folders)} {'run' if len(folders) == 1 else 'runs'}, {size:,.1f} MB")
    if not yes and not _agreed():
        print("nothing was removed")
        return 0
    for folder in folders:
        shutil.rmtree(folder)
        if not any(folder.parent.iterdir()):
            folder.parent.rmdir()
    print("removed")
    return 0


def _folder(root: Path, name: str) -> Path:
    """The folder of a run of `root`; links and other places are refused."""
    inside = root / name
    given = Path(name) if not (inside / "run.json").exists() and (Path(name) / "run.json").exists() else inside
    if given.is_symlink() or given.parent.is_symlink():
        raise ValueError(f"{name} is a link, or lies behind one: remove the run by its own name")
    resolved, whole = given.resolve(), root.resolve()
    if not resolved.is_relative_to(whole) or len(resolved.relative_to(whole).parts) != 2:
        raise ValueError(f"{name} is not a run in {root}; give <name>/<id> as `runs list` shows it")
    if not (resolved / "run.json").exists():
        raise FileNotFoundError(f"no run.json in {given}; is it a run's folder, {root}/<name>/<id>?")
    return resolved


def _agreed() -> bool:
    try:
        return input("remove? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _megabytes(taken: dict[str, int]) -> dict[str, float]:
    return {**{kind: size / 1e6 for kind, size in taken.items()}, "all": sum(taken.values()) / 1e6}

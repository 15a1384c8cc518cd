"""Reads a run's folder: run.json and the files beside it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from records.diagnosis import Findings
from records.evaluation import Evaluation
from records.record import printable
from records.run import RunRecord

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where PyYAML has it, is eight times as fast


@dataclass(frozen=True, eq=False)
class RunFolder:
    """One run: its folder and its record."""

    folder: Path
    record: RunRecord

    @property
    def name(self) -> str:
        return self.folder.absolute().parent.name

    @property
    def label(self) -> str:
        """name/id, from the folders."""
        return printable(f"{self.name}/{self.folder.absolute().name}")

    @property
    def status(self) -> str:
        return self.record.status or "unknown"

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.yaml; empty if there is none. Raises ValueError, naming the file, if it is broken."""
        path = self.folder / "config.yaml"
        if not path.exists():
            return {}
        try:
            found = yaml.load(path.read_text(), Loader=Loader)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
        if not isinstance(found, dict):
            raise ValueError(f"{path} holds no settings")
        return found

    @property
    def seed(self) -> object:
        return self.config.get("seed_everything")

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """The records of `evaluate`, oldest first."""
        return [Evaluation.read(path, "an evaluation") for path in sorted((self.folder / "evaluations").glob("*.json"))]

    @cached_property
    def diagnosis(self) -> Findings | None:
        """The diagnosis latest in training, by the fit or by `diagnose`; None if there is none."""
        own = self.record.diagnosis
        later = [Findings.read(path, "a diagnosis") for path in sorted((self.folder / "diagnosis").glob("*.json"))]
        known = [*([own] if own else []), *later]
        return max(reversed(known), key=lambda found: found.samples_seen, default=None)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of metrics.jsonl, without a line that a kill cut short."""
        yield from rows_of(self.folder / "metrics.jsonl")

    def damaged_lines(self) -> int:
        """The number of unreadable lines in metrics.jsonl, not counting the last, which a kill may have cut short."""
        whole = self._metrics().rpartition(b"\n")[0]
        lines = whole.count(b"\n") + 1 if whole else 0
        # Rows are flat, so counting suffices and a hundred runs need not be parsed. A lost disk block reads as zeros.
        counted = whole.count(b"}\n{") == max(lines - 1, 0) and whole.count(b'"samples_seen"') == lines
        if counted and b"\0" not in whole:
            return 0
        return lines - sum(1 for _ in _rows(whole))

    def no_number(self) -> str | None:
        """A sentence about the first value in metrics.jsonl that is NaN or infinite; None if all are finite."""
        content = self._metrics()
        if b"NaN" not in content and b"Infinity" not in content:  # as json writes them; saves parsing
            return None
        for row in self.rows():
            for name, value in row.items():
                if isinstance(value, float) and (value != value or abs(value) == float("inf")):
                    return f"{name} was {value} after {row['samples_seen'] / 1000:g} kimg"
        return None

    def _metrics(self) -> bytes:
        path = self.folder / "metrics.jsonl"
        return path.read_bytes() if path.exists() else b""


def rows_of(metrics: Path) -> Iterator[dict[str, Any]]:
    """The rows of a metrics.jsonl, without lines that are incomplete or damaged; none if there is no such file."""
    yield from _rows(metrics.read_bytes() if metrics.exists() else b"")


def _rows(content: bytes) -> Iterator[dict[str, Any]]:
    for line in content.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("samples_seen"), int):
            yield row


def read_run(folder: Path) -> RunFolder:
    """The run in a folder. Raises FileNotFoundError if it has no run.json, and ValueError if that is broken."""
    path = folder / "run.json"
    if not path.is_file():
        raise FileNotFoundError(f"no run.json in {folder}; is it a run's folder, runs/<name>/<id>?")
    return RunFolder(folder, RunRecord.read(path, "a run"))


def runs_at(paths: Sequence[Path]) -> list[RunFolder]:
    """The runs at these paths, each once. A path is the folder of a run, or of a name and all its runs.

    Raises FileNotFoundError if a path has no run, and ValueError if a run.json is broken.
    """
    found: dict[Path, RunFolder] = {}
    for path in paths:
        if not path.is_dir():
            raise FileNotFoundError(f"no folder {path}; give the folder of a run, runs/<name>/<id>, or runs/<name>")
        folders = [path]
        if not (path / "run.json").exists():
            # A fit that failed before its first batch leaves a folder without a record.
            folders = [folder for folder in sorted(path.iterdir()) if (folder / "run.json").is_file()]
        if not folders:
            raise FileNotFoundError(f"no run.json in {path} or its subfolders; give runs/<name>/<id> or runs/<name>")
        for folder in folders:
            found.setdefault(folder.resolve(), read_run(folder))
    return list(found.values())

"""Runs as `compare` and `runs` read them: run.json and what lies beside it. Standard library and yaml, no torch."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

SCHEMA = 1
"""The schema of run.json that is understood here: `callbacks.run.SCHEMA`, whose import would take seconds."""

NUMBER = (int, float)
DIAGNOSIS: dict[str, Any] = {"samples_seen": int, "findings": list}
SHAPE: dict[str, Any] = {
    "status": str, "started": str, "ended": str, "error": str, "precision": str, "commit": str, "devices": int,
    "samples_seen": int, "seconds": NUMBER, "model": {"class_path": str}, "parameters": {"*": NUMBER},
    "data": {"class_path": str, "train_size": int, "data_shape": list, "num_classes": int},
    "hardware": {"cores": int, "threads": int, "memory_gib": NUMBER, "gpu_gib": NUMBER}, "versions": {},
    "memory": {"source": str, "peak_gib": {"*": NUMBER}, "kept_bytes": {"*": NUMBER}},
    "throughput": {"samples_per_s": NUMBER, "s_per_kimg": NUMBER}, "diagnosis": DIAGNOSIS,
    "origin": {"code": str}, "init_from": {"path": str},
}  # fmt: skip
"""Of run.json, what is read here: the type of a value, or of each inner one ("*": of all, and none is null)."""

FIGURE = {
    "value": NUMBER, "spread": NUMBER, "samples_seen": int, "better": str,
    "best": {"value": NUMBER, "samples_seen": int}, "protocol": {},
}  # fmt: skip
"""Likewise, of each figure."""

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where PyYAML has it, is eight times as fast


@dataclass(frozen=True, eq=False)
class RunFolder:
    """One run: its folder and its record."""

    folder: Path
    record: dict[str, Any]

    @property
    def name(self) -> str:
        return self.folder.absolute().parent.name

    @property
    def label(self) -> str:
        """name/id, as the folders are called."""
        return printable(f"{self.name}/{self.folder.absolute().name}")

    @property
    def status(self) -> str:
        return self.record.get("status") or "unknown"

    @property
    def kimg(self) -> float | None:
        seen = self.record.get("samples_seen")
        return None if seen is None else seen / 1000

    @property
    def model(self) -> str:
        """The class's name."""
        return str((self.record.get("model") or {}).get("class_path", "")).rpartition(".")[2]

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.yaml; empty where there is none.

        Raises:
            ValueError: it cannot be read; one line with the file.
        """
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
    def evaluations(self) -> list[dict[str, Any]]:
        """What `evaluate` measured, oldest first."""
        return [_read_evaluation(path) for path in sorted((self.folder / "evaluations").glob("*.json"))]

    @cached_property
    def diagnosis(self) -> dict[str, Any] | None:
        """What the diagnosis furthest in training found, the fit's own or one by `diagnose`; None without any."""
        own = self.record.get("diagnosis")
        later = [_read_diagnosis(path) for path in sorted((self.folder / "diagnosis").glob("*.json"))]
        known = [*([own] if own else []), *later]
        return max(reversed(known), key=lambda found: found.get("samples_seen") or 0, default=None)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of metrics.jsonl; a line that a kill cut short is left out."""
        yield from _rows(self._metrics())

    def damaged_lines(self) -> int:
        """How many lines of metrics.jsonl are no rows; the last, which a kill may have cut short, does not count."""
        whole = self._metrics().rpartition(b"\n")[0]
        lines = whole.count(b"\n") + 1 if whole else 0
        # Rows are flat, so that counts tell, and a hundred runs need not be parsed; a lost block reads as zeros.
        counted = whole.count(b"}\n{") == max(lines - 1, 0) and whole.count(b'"samples_seen"') == lines
        if counted and b"\0" not in whole:
            return 0
        return lines - sum(1 for _ in _rows(whole))

    def no_number(self) -> str | None:
        """The first value in metrics.jsonl that is no number, in words; None where all are."""
        content = self._metrics()
        if b"NaN" not in content and b"Infinity" not in content:  # what json writes for them; looked for before parsing
            return None
        for row in self.rows():
            for name, value in row.items():
                if isinstance(value, float) and (value != value or abs(value) == float("inf")):
                    return f"{name} was {value} after {row['samples_seen'] / 1000:g} kimg"
        return None

    def _metrics(self) -> bytes:
        path = self.folder / "metrics.jsonl"
        return path.read_bytes() if path.exists() else b""


def _rows(content: bytes) -> Iterator[dict[str, Any]]:
    for line in content.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("samples_seen"), int):
            yield row


def read_run(folder: Path) -> RunFolder:
    """The run in a folder.

    Raises:
        FileNotFoundError: it has no run.json.
        ValueError: run.json cannot be read, or is of a later version; one line with the file.
    """
    path = folder / "run.json"
    if not path.is_file():
        raise FileNotFoundError(f"no run.json in {folder}; is it a run's folder, runs/<name>/<id>?")
    record = _read_json(path, "run's record")
    if not isinstance(record.get("schema"), int):
        raise ValueError(f"{path} is broken: it is no run's record")
    if record["schema"] > SCHEMA:
        raise ValueError(
            f"{path} has schema {record['schema']}, of a later version of Atelier; this one reads {SCHEMA}: update it"
        )
    _check(path, record, SHAPE)
    _check_figures(path, record.get("figures") or {})
    return RunFolder(folder, record)


def runs_at(paths: Sequence[Path]) -> list[RunFolder]:
    """The runs at these paths, each a run's folder or a name's, in which every run is taken; each run once.

    Raises:
        FileNotFoundError: there is none at a path.
        ValueError: a run.json cannot be read; one line with the file.
    """
    found: dict[Path, RunFolder] = {}
    for path in paths:
        if not path.is_dir():
            raise FileNotFoundError(f"no folder {path}; give a run's, runs/<name>/<id>, or a name's, runs/<name>")
        folders = [path]
        if not (path / "run.json").exists():
            # A fit that failed before its first batch leaves a folder without a record.
            folders = [folder for folder in sorted(path.iterdir()) if (folder / "run.json").is_file()]
        if not folders:
            raise FileNotFoundError(
                f"no run.json in {path} nor in the folders in it; give a run's folder, runs/<name>/<id>, or a name's, "
                "runs/<name>"
            )
        for folder in folders:
            found.setdefault(folder.resolve(), read_run(folder))
    return list(found.values())


def printable(text: object) -> str:
    """Text of a file in one line, without what would steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in re.sub(r"\s+", " ", str(text)))


def _read_evaluation(path: Path) -> dict[str, Any]:
    found = _read_json(path, "evaluation")
    if not isinstance(found.get("figures"), dict):
        raise ValueError(f"{path} is broken: it is no evaluation")
    _check_figures(path, found["figures"])
    return found


def _read_diagnosis(path: Path) -> dict[str, Any]:
    found = _read_json(path, "diagnosis")
    _check(path, found, DIAGNOSIS)
    return found


def _read_json(path: Path, what: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is broken: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is broken: it is no {what}")
    return found


def _check_figures(path: Path, figures: object) -> None:
    if not isinstance(figures, dict):
        raise ValueError(f"{path} is broken: figures is {str(figures)[:40]!r}")
    for name, figure in figures.items():
        if not isinstance(figure, dict) or "value" not in figure or not isinstance(figure.get("protocol"), dict):
            raise ValueError(f"{path} is broken: the figure {printable(name)} has no value or no protocol")
        _check(path, figure, FIGURE, f"figures.{name}.")


def _check(path: Path, value: dict[str, Any], shape: Mapping[str, Any], prefix: str = "") -> None:
    kinds = dict.fromkeys(value, shape["*"]) if "*" in shape else shape
    for name, kind in kinds.items():
        inner = value.get(name)
        if inner is None and "*" not in shape:
            continue
        if not isinstance(inner, dict if isinstance(kind, dict) else kind):
            raise ValueError(f"{path} is broken: {printable(prefix + name)} is {str(inner)[:40]!r}")
        if isinstance(kind, dict):
            _check(path, inner, kind, f"{prefix}{name}.")

"""sweep: runs the trials of a W&B sweep file on this machine, without an account; `wandb sweep` reads the same file."""

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from commands.options.errors import InputError
from commands.options.parsers import require_least, verb_parser
from commands.sweeps.file import OF_THE_SWEEP, SweepFile, is_beaten, read_sweep_file
from commands.sweeps.proposals import next_trial
from records.figures import Direction, best_of
from records.folder import rows_of
from records.sweep import SCHEMA, BestTrial, State, SweepRecord, SweepStatus, Trial

POLL_S = 0.1
ORPHAN_PATIENCE_S = 20.0
"""Time that a trial which outlived a killed sweep has to end after SIGTERM."""
GIVE_UP_AFTER = 5
"""No more trials begin if the first so many since the start all fail, as in `wandb agent`."""
SHOWN = 20
"""Rows of the live table."""


def run(arguments: Sequence[str]) -> int:
    """Runs the sweep. The exit code is 1 if no trial succeeded, 130 or 143 after a signal."""
    parser = verb_parser("sweep", str(__doc__))
    parser.add_argument("file", type=Path, help="a sweep file, such as configs/sweeps/dcgan_fashion_mnist_bayes.yaml")
    parser.add_argument("--count", type=int, help="trials in total, including earlier ones (run_cap, or a whole grid)")
    parser.add_argument("--parallel", type=int, default=1, help="trials at the same time; they share the GPUs in turn")
    parser.add_argument("--root", type=Path, default=Path("runs"), help="the folder of all runs")
    parser.add_argument("--name", help="the sweep's folder in --root (the file's name)")
    parser.add_argument("--seed", type=int, default=0, help="seed of random parameters")
    options = parser.parse_args(arguments)
    require_least(options, {"count": 1, "parallel": 1})
    file = read_sweep_file(options.file)
    count = options.count or file.run_cap or (len(file.grid()) if file.method == "grid" else None)
    if count is None:
        raise InputError(f"a {file.method} sweep has no end: give --count, or run_cap in {options.file}")
    sweep = Sweep(file, options.root, options.name or options.file.stem, options.seed)
    return sweep.run(count, options.parallel)


class Sweep:
    """A sweep in its folder, `root/name`: sweep.json, the output of trials in `logs/`, and their runs.

    `seed` is that of random parameters.

    Raises InputError if the folder holds another sweep, or this one is running.
    """

    def __init__(self, file: SweepFile, root: Path, name: str, seed: int) -> None:
        self.file, self.root, self.name, self.seed = file, root, name, seed
        self.folder = root / name
        self.trials: list[Trial] = []
        self.received: signal.Signals | None = None
        self._running: dict[int, Process] = {}
        self._begun: list[Trial] = []
        self._table = Table(file, sys.stderr)
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"the sweep in {self.folder} is already running") from error
        self._read()

    def run(self, count: int, parallel: int) -> int:
        """Runs up to `count` trials, `parallel` at a time, and prints the best."""
        devices = visible_gpus()
        again = [trial for trial in self.trials if trial.state in ("running", "stopped")]
        for trial in again:
            end_orphan(trial)
            trial.state, trial.attempt = "stopped", trial.attempt + 1
        with self._signals():
            while True:  # end finished trials, start new ones, wait
                for slot in list(self._running):
                    self._look_after(slot)
                for slot in set(range(parallel)) - set(self._running):
                    if self.received is not None or self._is_hopeless:
                        break
                    following = again.pop(0) if again else None
                    if following is None and len(self.trials) < count:
                        following = next_trial(self.file, self.trials, self.seed)
                    if following is not None:
                        self._start(following, slot, parallel, devices)
                if not self._running:
                    break
                self._table.show(self.trials)
                time.sleep(POLL_S)
        self._table.show(self.trials, last=True)
        self._write("done" if self.received is None else "stopped")
        if (best := self.best) is None:
            print("no trial has a value yet", file=sys.stderr)
        else:
            print(f"best: trial {best.trial}, {self.file.metric} {best.value:.6g}, {best.run}", file=sys.stderr)
            print(best.command)
        if self._is_hopeless:
            print(
                f"the first {GIVE_UP_AFTER} trials failed, and no more were started; their output is in "
                f"{self.folder / 'logs'}. Fix the error, and start again with another --name",
                file=sys.stderr,
            )
        if self.received is not None:
            return 128 + self.received
        return 0 if any(trial.counts for trial in self.trials) else 1

    @property
    def _is_hopeless(self) -> bool:
        first = self._begun[:GIVE_UP_AFTER]
        return len(first) == GIVE_UP_AFTER and all(trial.state == "failed" for trial in first)

    def _start(self, trial: Trial, slot: int, parallel: int, devices: Sequence[str]) -> None:
        run_id = f"trial{trial.number:03d}" + (f"-{trial.attempt}" if trial.attempt > 1 else "")
        run = self.folder / run_id
        own = dict(zip(OF_THE_SWEEP, (str(self.root), self.name, run_id), strict=True))
        words = self.file.words({**trial.settings, **own}, sys.executable)
        environment = dict(os.environ)
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
        if parallel > 1:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // parallel)))
        log = self.folder / "logs" / f"{run_id}.log"
        trial.state, trial.run, trial.error, trial.exit_code = "running", str(run), None, None
        if trial.number == len(self.trials):
            self.trials.append(trial)
        self._begun.append(trial)
        try:
            process = Process(words, environment, log, run / "metrics.jsonl", self.file)
        except OSError as error:
            trial.state, trial.error = "failed", f"cannot start {words[0]}: {error.strerror}"
        else:
            trial.pid = process.pid
            self._running[slot] = process
            process.trial = trial
        self._write("running")

    def _look_after(self, slot: int) -> None:
        process = self._running[slot]
        trial = process.trial
        code = process.poll()
        values = process.values()
        trial.seconds = round(time.monotonic() - process.began, 3)
        trial.measurements, trial.value = len(values), values[-1] if values else None
        if code is None:
            if self.file.hyperband and not process.asked_to_end and self._is_beaten(trial, values, process):
                process.end(signal.SIGTERM)
                process.beaten = True
            return
        del self._running[slot]
        trial.exit_code, trial.pid = code, None
        trial.state, trial.error = self._outcome(process, code)
        self._write("running")
        self._table.ended(trial)

    def _outcome(self, process: "Process", code: int) -> tuple[State, str | None]:
        trial = process.trial
        if process.beaten:
            return "early", None
        if self.received is not None and code != 0:
            return "stopped", None
        if code == 0 and trial.value is not None:
            return "done", None
        if code == 0:
            return "failed", f"it ended without a measurement of {self.file.metric}"
        return "failed", f"exit code {code}: {process.last_line()}"

    def _is_beaten(self, trial: Trial, values: Sequence[float], process: "Process") -> bool:
        """Compares the trial at each rung that it has just reached."""
        assert self.file.hyperband is not None
        due = [rung for rung in self.file.hyperband.rungs if process.compared < rung <= len(values)]
        if not due:
            return False
        process.compared = due[-1]
        sign = 1 if self.file.goal == "minimize" else -1
        others = [read_values(Path(other.run) / "metrics.jsonl", self.file.metric)
                  for other in self.trials if other is not trial and other.run and other.state != "failed"]  # fmt: skip
        signed = [[sign * value for value in other] for other in others]
        return any(is_beaten([sign * v for v in values], rung, signed, self.file.hyperband.eta) for rung in due)

    # The end.

    @property
    def best(self) -> BestTrial | None:
        """The trial with the best last measurement; the earliest of equal ones."""
        counted = [trial for trial in self.trials if trial.counts]
        if not counted:
            return None
        better: Direction = "lower" if self.file.goal == "minimize" else "higher"
        best = best_of(counted, lambda trial: trial.value or 0.0, better)
        return BestTrial(best.number, best.value, best.run, shlex.join(self.file.words(best.settings, "python")))

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM stops the trials gracefully; a second one kills them."""

        def handle(number: int, frame: FrameType | None) -> None:
            again = self.received is not None
            self.received = self.received or signal.Signals(number)
            for process in self._running.values():
                process.end(signal.SIGKILL if again else signal.SIGINT)
            if not again:
                print(f"\n{self.received.name}: stopping the trials; repeat to kill them", file=sys.stderr, flush=True)

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        except BaseException:  # our own bug: no trial may outlive it
            for process in self._running.values():
                process.end(signal.SIGKILL)
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # sweep.json.

    def _read(self) -> None:
        path = self.folder / "sweep.json"
        if not path.exists():
            return
        try:
            kept = SweepRecord.read(path, "a sweep")
        except ValueError as error:
            raise InputError(f"{error}; give another --name") from error
        if kept.file != json.loads(json.dumps(self.file.content)) or kept.seed != self.seed:
            raise InputError(f"{path} belongs to another file or seed; give another --name to start a new sweep")
        self.trials = kept.trials

    def _write(self, status: SweepStatus) -> None:
        kept = SweepRecord(SCHEMA, self.name, status, self.seed, self.file.content, self.best, self.trials)
        kept.write(self.folder / "sweep.json")


class Process:
    """The process of a trial in its own session, so that Ctrl-C in a terminal reaches it through the sweep only."""

    trial: Trial

    def __init__(
        self, words: Sequence[str], environment: dict[str, str], log: Path, metrics: Path, file: SweepFile
    ) -> None:
        self.began = time.monotonic()
        self.asked_to_end = self.beaten = False
        self.compared = 0
        self._log, self._metrics, self._metric = log, metrics, file.metric
        self._size = -1
        self._values: list[float] = []
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                words, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.poll()

    def end(self, number: signal.Signals) -> None:
        self.asked_to_end = True
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:  # its children too, which are not notified otherwise
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)

    def values(self) -> list[float]:
        """The metric's measurements so far. The file is read again only when it grows."""
        with contextlib.suppress(OSError):
            size = self._metrics.stat().st_size
            if size != self._size:
                self._size, self._values = size, read_values(self._metrics, self._metric)
        return self._values

    def last_line(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")


def read_values(metrics: Path, name: str) -> list[float]:
    """The measurements of one figure in a metrics.jsonl, in order."""
    return [float(row[name]) for row in rows_of(metrics) if isinstance(row.get(name), int | float)]


def end_orphan(trial: Trial) -> None:
    """Ends the process of a trial whose sweep was killed, if it still runs: its machine is needed."""

    def runs() -> bool:
        try:
            command = Path(f"/proc/{trial.pid}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            return False
        return Path(trial.run).name in command  # otherwise the process number was reused

    if trial.pid is None or not runs():
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(trial.pid, signal.SIGTERM)
        deadline = time.monotonic() + ORPHAN_PATIENCE_S
        while runs() and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if runs():
            os.kill(trial.pid, signal.SIGKILL)


def visible_gpus() -> list[str]:
    """The GPUs that trials share, as CUDA_VISIBLE_DEVICES names them."""
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    if stated is not None:
        return [name for name in stated.split(",") if name.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    count = sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0
    return [str(number) for number in range(count)]


class Table:
    """The trials so far: a live table in a terminal, otherwise a line for each finished trial."""

    def __init__(self, file: SweepFile, out: TextIO) -> None:
        self._file, self._out = file, out
        self._live = out.isatty()
        self._lines = 0
        self._shown_at = 0.0

    def show(self, trials: Sequence[Trial], last: bool = False) -> None:
        if not self._live or (time.monotonic() - self._shown_at < 1 and not last):
            return
        self._shown_at = time.monotonic()
        width = shutil.get_terminal_size().columns - 1
        rows = [f"{'trial':>5}  {'state':<8}{self._file.metric:>14}{'n':>5}{'s':>8}  parameters"]
        rows += [self._row(trial) for trial in trials[-SHOWN:]]
        up = f"\x1b[{self._lines}A\x1b[J" if self._lines else ""
        print(up + "\n".join(row[:width] for row in rows), file=self._out, flush=True)
        self._lines = len(rows)

    def ended(self, trial: Trial) -> None:
        if not self._live:
            print(self._row(trial), file=self._out, flush=True)

    def _row(self, trial: Trial) -> str:
        value = "" if trial.value is None else f"{trial.value:.6g}"
        settings = " ".join(f"{key}={_short(setting)}" for key, setting in trial.settings.items())
        said = f"  {trial.error}" if trial.error else ""
        row = f"{trial.number:>5}  {trial.state:<8}{value:>14}{trial.measurements:>5}{trial.seconds:>8.0f}"
        return f"{row}  {settings}{said}"


def _short(setting: Any) -> str:  # noqa: ANN401 - any type that YAML has
    return f"{setting:.4g}" if isinstance(setting, float) else str(setting)

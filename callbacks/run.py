"""A run: its folder, its record (run.json), its figures (metrics.jsonl) and its W&B run."""

import datetime
import filecmp
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from callbacks.hardware import hardware, versions
from callbacks.lookup import data_of, find, model_of
from callbacks.wandb_run import ArtifactChoice, WandbMode, WandbRun, has_wandb_key
from media.files import write_text_whole, write_whole
from media.pictures import save_png
from models.training.base import GenerativeModel
from records.figures import Direction, Figure, recorded
from records.run import SCHEMA, Data, Described, InitFrom, ResumeOverride, RunRecord, Status
from settings.configurable import describe


class MetricsFile(Logger):
    """metrics.jsonl: one JSON object per line, {"samples_seen": ..., "seconds": ..., figures...}; append-only.

    Rows beyond `samples_seen` are dropped when it is opened, since a resumed run repeats them.
    """

    def __init__(self, path: Path, samples_seen: int) -> None:
        super().__init__()
        self.path = path
        self.seconds = 0.0
        if path.exists():
            lines = path.read_text().splitlines()
            kept = [line for line in lines if _samples_of(line) <= samples_seen]
            if len(kept) < len(lines):
                write_text_whole(path, "".join(line + "\n" for line in kept))

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return self.path.parent.name

    def log_hyperparams(self, params: Any, *args: object) -> None:  # noqa: ANN401
        """Does nothing: the configuration is in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {"samples_seen": step, "seconds": round(self.seconds, 3), **{k: _short(v) for k, v in metrics.items()}}
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


class Run(Callback):
    """Writes the folder of a run, `root/name/<id>/`, on rank 0.

    Args:
        root: the folder of all runs.
        name: the run's name; the command line defaults to the config's file name.
        id: the name of the run's folder; its start time if left out.
        wandb: "auto" is online if an API key is set, otherwise offline, and never prompts.
        project: the W&B project.
        artifacts: checkpoints to upload as versions of one W&B artifact: the last or the best at the end of the fit, or
            all, each when it is saved. The aliases `last` and `best` are moved.
        wandb_patience_s: seconds that W&B's server may take to answer at the start, and to finish at the end.
        report_every_s: seconds between reports of the losses to logs and progress bar; at least 1.
    """

    def __init__(
        self,
        root: str = "runs",
        name: str | None = None,
        id: str | None = None,
        wandb: WandbMode = "auto",
        project: str = "atelier",
        artifacts: ArtifactChoice = "none",
        wandb_patience_s: float = 30.0,
        report_every_s: float = 2.0,
    ) -> None:
        if report_every_s < 1:
            raise ValueError(f"run.report_every_s must be at least 1, not {report_every_s}")
        if wandb_patience_s <= 0:
            raise ValueError(f"run.wandb_patience_s must be more than 0, not {wandb_patience_s}")
        self.artifacts, self.wandb_patience_s = artifacts, wandb_patience_s
        self.root, self.name, self.id, self.wandb, self.project = root, name, id, wandb, project
        self.report_every_s = report_every_s
        self.folder = Path()
        self.config: dict[str, Any] = {}
        self.latest: dict[str, float] = {}
        """The newest value of everything logged."""
        self.latest_at: dict[str, int] = {}
        """The samples seen when it was logged."""
        self.headline: tuple[str, Direction] | None = None
        """The main figure, to which "best" refers, and its direction; set by the callback that measures it."""
        self.resume_folder: Path | None = None
        """Set by the command line: the folder of the resumed run."""
        self.init_from: InitFrom | None = None
        """Set by the command line: the checkpoint whose weights the run begins with, and the tensors taken."""
        self.resume_override: ResumeOverride | None = None
        """Set by the command line: settings that change from here on."""
        self.record = RunRecord(SCHEMA)
        self.has_trained = False
        """Whether this fit has finished a batch; later errors are not bad input."""
        self._seconds_before = 0.0
        self._started = self._reported = time.monotonic()
        self._files: MetricsFile | None = None
        self._wandb: WandbRun | None = None

    # Used by other callbacks and the command line.

    def write(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        """Writes values at the current samples_seen to all logs."""
        self.latest.update(values)
        self.latest_at.update(dict.fromkeys(values, model_of(trainer.lightning_module).samples_seen))
        if self._files is not None:
            self._files.seconds = self.seconds
        for logger in trainer.loggers:
            logger.log_metrics(dict(values), step=model_of(trainer.lightning_module).samples_seen)

    def keep_figures(self, trainer: Trainer, found: Mapping[str, Figure], protocol: Mapping[str, Any]) -> None:
        """Writes figures to all logs, and keeps them in run.json with their protocol and best value."""
        seen = model_of(trainer.lightning_module).samples_seen
        self.write(trainer, {name: figure.value for name, figure in found.items()})
        kept = self.record.figures
        kept |= {name: recorded(figure, dict(protocol), seen, kept.get(name)) for name, figure in found.items()}
        self.save(trainer)

    def write_picture(self, trainer: Trainer, name: str, picture: Tensor, path: Path) -> None:
        """Writes a uint8 (C, H, W) picture to `path` and to W&B."""
        path.parent.mkdir(parents=True, exist_ok=True)
        save_png(picture, path)
        if self._wandb is not None:
            self._wandb.log_picture(name, picture, model_of(trainer.lightning_module).samples_seen)

    def checkpoint_saved(self, path: Path, aliases: Sequence[str]) -> None:
        """Uploads a checkpoint to W&B if all are wanted; called on rank 0."""
        if self._wandb is not None and self.artifacts == "all":
            self._wandb.log_checkpoint(path, aliases)

    def save(self, trainer: Trainer) -> None:
        """Replaces run.json by the current record, all or nothing."""
        self.record.samples_seen = model_of(trainer.lightning_module).samples_seen
        self.record.seconds = round(self.seconds, 3)
        if self._wandb is not None:
            self.record.wandb_rows = self._wandb.rows
        if self._files is not None:  # on rank 0 only, once the folder exists
            self.record.write(self.folder / "run.json")

    @property
    def seconds(self) -> float:
        """Wall time of all fits of this run so far."""
        return self._seconds_before + time.monotonic() - self._started

    # Lightning's hooks.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._started = self._reported = time.monotonic()
        folder = self._make_folder() if trainer.is_global_zero else ""
        self.folder = Path(trainer.strategy.broadcast(folder))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the record, once the checkpoint's state is restored."""
        if not trainer.is_global_zero:
            return
        model = model_of(pl_module)
        self._read_record()
        self._files = MetricsFile(self.folder / "metrics.jsonl", model.samples_seen)
        own: list[Logger] = [self._files]
        if self.wandb != "off":
            self._wandb = self._wandb_run(model)
            own.append(self._wandb)
        trainer.loggers = [*own, *trainer.loggers]
        write_text_whole(self.folder / "config.yaml", yaml.safe_dump(self.config, sort_keys=False))
        data, record = data_of(trainer), self.record
        record.schema, record.id, record.name = SCHEMA, self.folder.name, self.folder.parent.name
        record.status, record.started = "running", record.started or _now()
        record.model = Described.from_json(describe(model))
        record.parameters = {name: sum(p.numel() for p in net.parameters()) for name, net in model.networks().items()}
        record.data = Data(
            class_path=f"{type(data).__module__}.{type(data).__qualname__}",
            train_size=getattr(data, "train_size", None),
            fingerprint=getattr(data, "fingerprint", None),
            data_shape=list(model.data_shape),
            num_classes=model.num_classes,
        )
        record.origin = dict(model.origin or {})
        record.init_from = self.init_from or record.init_from
        record.resume_overrides += [self.resume_override] if self.resume_override else []
        record.devices, record.precision = trainer.world_size, str(trainer.precision)
        record.hardware, record.versions = hardware(trainer.strategy.root_device), versions()
        record.commit = _commit()
        self.save(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self.has_trained = True
        if time.monotonic() - self._reported >= self.report_every_s:
            self.report(trainer, model_of(pl_module))

    def report(self, trainer: Trainer, model: GenerativeModel) -> None:
        """Logs the means of the model's observations since the last report."""
        self._reported = time.monotonic()
        values = model.reported()
        if values:
            self.write(trainer, values)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.report(trainer, model_of(pl_module))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Sends the last figures and checkpoints, before W&B's run is closed."""
        if stage != "fit" or self._wandb is None:
            return
        if self.record.figures:
            self._wandb.log_figures(self.record.figures, model_of(pl_module).samples_seen)
        if self.artifacts in ("last", "best"):
            for path in sorted((self.folder / "checkpoints").glob("kimg*.ckpt")):
                aliases = [name for name in ("last", "best") if _same_file(path, path.with_name(f"{name}.ckpt"))]
                if self.artifacts in aliases:
                    self._wandb.log_checkpoint(path, aliases)

    def finish(self, trainer: Trainer, status: Status, error: str | None = None) -> None:
        """Writes the final run.json, with status done, stopped or failed. The command line calls it last."""
        if self._files is not None:
            self.record.status, self.record.ended, self.record.error = status, _now(), error
            self.save(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the description of the data to the checkpoint, so that a resumed run cannot use other data."""
        data = data_of(trainer)
        if data is not None:
            checkpoint["atelier_data"] = data.settings()

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._seconds_before = state_dict["seconds"]

    # Details.

    def _make_folder(self) -> str:
        folder = self.resume_folder
        if folder is None:
            stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
            folder = Path(self.root) / (self.name or "run") / (self.id or f"{stamp}-{secrets.token_hex(2)}")
        try:
            folder.mkdir(parents=True, exist_ok=self.resume_folder is not None)
            for cut_short in folder.rglob(".*.tmp"):  # left by a kill while a file was written
                cut_short.unlink()
            write_whole(folder / ".writable", lambda file: None)
            (folder / ".writable").unlink()
        except FileExistsError as error:
            raise OSError(
                f"run {folder} already exists; choose another --run.id, or resume it with --ckpt_path"
            ) from error
        except OSError as error:
            remedy = "choose another with --run.root"
            raise OSError(f"cannot write the run folder {folder}: {error.strerror}; {remedy}") from error
        return str(folder)

    def _read_record(self) -> None:
        """Continues the record of a resumed run: its figures, its W&B id, its start."""
        path = self.folder / "run.json"
        try:
            self.record = RunRecord.read(path, "a run")
        except FileNotFoundError:
            pass
        except ValueError as error:
            kept = path.rename(path.with_name("run.unreadable.json"))
            print(f"{error}; kept as {kept.name}, a new record begins", file=sys.stderr)
        self.record.ended = self.record.error = None

    def _wandb_run(self, model: GenerativeModel) -> WandbRun:
        # `wandb agent` sets the id.
        of_sweep = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
        self.record.wandb_id = self.record.wandb_id or of_sweep or f"{self.folder.name}-{secrets.token_hex(3)}"
        commit = _commit()
        return WandbRun(
            run_id=self.record.wandb_id,
            name=f"{self.folder.parent.name}/{self.folder.name}",
            folder=self.folder,
            project=self.project,
            online=self.wandb == "online" or (self.wandb == "auto" and has_wandb_key()),
            config={"config": self.config, "model": describe(model), "commit": commit},
            commit=None if commit is None else commit.removesuffix("+"),
            rows=self.record.wandb_rows,
            patience_s=self.wandb_patience_s,
        )


def run_of(trainer: Trainer) -> Run:
    """The trainer's Run callback. Raises ValueError if there is none."""
    run = find(trainer, Run)
    if run is None:
        raise ValueError("the trainer needs a callbacks.run.Run beside the callbacks that log")
    return run


def kimg_name(samples_seen: int) -> str:
    """The stem of a run's file names; names sort as the counts do."""
    return f"kimg{samples_seen / 1000:010.3f}"


def _same_file(path: Path, other: Path) -> bool:
    return other.exists() and (path.samefile(other) or filecmp.cmp(path, other, shallow=False))


def _samples_of(line: str) -> float:
    """A row's samples_seen; infinite, so that it is dropped, for a line that a kill cut short."""
    try:
        return json.loads(line)["samples_seen"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _short(value: float) -> float:
    return float(f"{float(value):.7g}")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _commit() -> str | None:
    """The commit of this code, with a + if it has changes; None outside of a checkout."""
    here = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"],
            cwd=here, capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()

"""Writes checkpoints, all or nothing, and keeps the ones worth keeping."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from callbacks.guard import require_finite_weights
from callbacks.intervals import AtIntervals
from callbacks.lookup import model_of
from callbacks.ranks import any_rank
from callbacks.run import kimg_name, run_of
from media.files import write_whole
from models.training.checkpoint import read_checkpoint
from records.figures import Direction, is_better


class CheckpointError(OSError):
    """A checkpoint could not be written; the previous one is untouched."""


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes into the checkpoint's own folder, flushes and renames; always reads with `weights_only=True`.

    Lightning's own save goes through the temporary directory. If that is another file system, its last step is a copy,
    which a kill can cut short.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_whole(Path(path), lambda file: torch.save(checkpoint, file))
        except (OSError, RuntimeError) as error:
            # torch reports a full disk as a RuntimeError of its zip writer.
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise CheckpointError(f"cannot write {path}: {reason}; the previous checkpoint is untouched") from error

    def load_checkpoint(
        self, path: str | Path, map_location: Callable | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(path)


class Checkpoints(AtIntervals, Checkpoint):
    """Saves `checkpoints/kimg<samples seen / 1000>.ckpt`, with links `last.ckpt` and `best.ckpt`.

    Args:
        every_kimg: thousand samples between checkpoints; if left out, only minutes count.
        every_minutes: wall time between checkpoints.
        keep: number of newest checkpoints to keep, besides the best.
        save_top_k: number of best checkpoints to keep.
        monitor: the figure that "best" refers to; if left out, the first of the quality callback.
        mode: whether lower or higher values of `monitor` are better; by default its own direction, or min if not a
            figure.
    """

    always: ClassVar[bool] = False

    def __init__(
        self,
        every_kimg: float | None = None,
        every_minutes: float | None = 10.0,
        keep: int = 2,
        save_top_k: int = 1,
        monitor: str | None = None,
        mode: Literal["min", "max"] | None = None,
    ) -> None:
        if keep < 1:
            raise ValueError(f"checkpoints.keep must be at least 1, not {keep}")
        if save_top_k < 0:
            raise ValueError(f"checkpoints.save_top_k must not be negative, not {save_top_k}")
        super().__init__(every_kimg)
        self.every_minutes, self.keep, self.save_top_k = every_minutes, keep, save_top_k
        self.monitor, self.mode = monitor, mode
        self.checkpoint_io = WholeCheckpointIO()
        self._saved_at = time.monotonic()
        self._ranked: list[tuple[str, float]] = []
        """Names and figures, best first."""
        self._ranked_by: str | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = self.checkpoint_io

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._saved_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        model = model_of(pl_module)
        due = self.due(trainer, model.samples_seen)
        if self.every_minutes is not None:
            due |= any_rank(trainer, time.monotonic() - self._saved_at >= self.every_minutes * 60, batch_idx)
        if due or self._rank(trainer) is not None:
            self.save(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._done_at != model_of(pl_module).samples_seen:
            self.save(trainer, pl_module)

    def save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves now, after checking the weights, and removes old checkpoints."""
        model = model_of(pl_module)
        require_finite_weights(model)
        folder = run_of(trainer).folder / "checkpoints"
        path = folder / checkpoint_name(model.samples_seen)
        rank = self._rank(trainer)
        if rank is not None:
            figure, value, _ = self._monitored(trainer)
            assert value is not None
            kept = self._ranked if figure == self._ranked_by else []
            self._ranked = [*kept[:rank], (path.name, value), *kept[rank:]][: self.save_top_k]
            self._ranked_by = figure
        with model.phase("checkpoint"):
            trainer.save_checkpoint(path)
        self._saved_at, self._done_at = time.monotonic(), model.samples_seen
        if trainer.is_global_zero:
            link(path, folder / "last.ckpt")
            if rank == 0:
                link(path, folder / "best.ckpt")
            run_of(trainer).checkpoint_saved(path, ["last", "best"] if rank == 0 else ["last"])
            self._remove_old(folder)
            run_of(trainer).save(trainer)

    def _rank(self, trainer: Trainer) -> int | None:
        """The rank of a figure measured just now, 0 for the best; None if it is not among the best to keep.

        The quality callback runs before this one. Of equal figures, the earlier one ranks first.
        """
        figure, value, better = self._monitored(trainer)
        if figure is None or value is None or not self.save_top_k:
            return None
        if run_of(trainer).latest_at.get(figure) != model_of(trainer.lightning_module).samples_seen:
            return None
        # The best checkpoints by another figure do not count.
        ranked = self._ranked if figure == self._ranked_by else []
        name = checkpoint_name(model_of(trainer.lightning_module).samples_seen)
        if any(name == other for other, _ in ranked):
            return None
        ahead = sum(not is_better(value, other, better) for _, other in ranked)
        return ahead if ahead < self.save_top_k else None

    def _monitored(self, trainer: Trainer) -> tuple[str | None, float | None, Direction]:
        """The figure that "best" refers to, its newest value, and its direction."""
        run = run_of(trainer)
        if self.monitor is None:
            name, better = run.headline or (None, "lower")
            return name, None if name is None else run.latest.get(name), better
        known = run.record.figures.get(self.monitor)
        stated: Direction | None = None if self.mode is None else "lower" if self.mode == "min" else "higher"
        return self.monitor, run.latest.get(self.monitor), stated or (known and known.better) or "lower"

    def _remove_old(self, folder: Path) -> None:
        best = [name for name, _ in self._ranked]
        for path in checkpoints_in(folder)[: -self.keep]:
            if path.name not in best:
                path.unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        return {"ranked": [list(pair) for pair in self._ranked], "ranked_by": self._ranked_by}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._ranked = [(name, value) for name, value in state_dict["ranked"]]
        self._ranked_by = state_dict["ranked_by"]


def checkpoint_name(samples_seen: int) -> str:
    """The file name of a checkpoint."""
    return f"{kimg_name(samples_seen)}.ckpt"


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(folder.glob("kimg*.ckpt"))


def newest_whole(folder: Path) -> Path | None:
    """The newest readable checkpoint in a folder, or None."""
    for path in reversed(checkpoints_in(folder)):
        try:
            read_checkpoint(path)
        except (ValueError, OSError):
            continue
        return path
    return None


def link(target: Path, name: Path) -> None:
    """Links `name` to the file `target`, atomically; copies it if the file system has no links."""
    temporary = name.with_name(f".{name.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(target, temporary)
    except OSError:
        shutil.copyfile(target, temporary)
    temporary.replace(name)

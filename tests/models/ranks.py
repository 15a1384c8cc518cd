"""Several ranks of a test, each a process of its own that adds with the others over gloo."""

import importlib
import os
import subprocess
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from models.training.base import Batch, GenerativeModel

REPOSITORY = Path(__file__).parents[2]

Target = Callable[[int, int, Path], None]
"""What one rank does: (rank, world, folder); a function at the top of a test's file."""


def on_ranks(target: Target, folder: Path, world: int = 2) -> None:
    """Runs `target` on every rank, in new processes: autograd works in no fork of one that has used it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)}
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, target.__module__, target.__name__, str(rank), str(world), str(folder)],
            cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    try:
        errors = [process.communicate(timeout=240)[1] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [process.returncode for process in ranks] == [0] * world, "\n".join(errors)[-3000:]


def fit_share(model: GenerativeModel, batches: Sequence[Batch], rank: int, world: int) -> None:
    """Trains in float64, with seed 7, on this rank's share of joint batches."""
    model.training_seed = 7
    share = [(x[rank::world], y[rank::world]) for x, y in batches]
    quiet: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(accelerator="cpu", max_steps=len(batches), precision="64-true", **quiet)
        trainer.fit(model, DataLoader(share, batch_size=None))  # type: ignore[arg-type]


def _main(module: str, target: str, rank: int, world: int, folder: Path) -> None:
    tests = types.ModuleType("tests")  # ours, whatever else is installed under that name
    tests.__path__ = [str(REPOSITORY / "tests")]
    sys.modules["tests"] = tests
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    # Without a launcher of its own Lightning believes in one rank.
    lightning.LightningModule.global_rank = property(lambda self: rank)  # type: ignore[assignment, method-assign]
    getattr(importlib.import_module(module), target)(rank, world, folder)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))

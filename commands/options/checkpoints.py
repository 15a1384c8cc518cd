"""Finds and loads a verb's checkpoint, and its device."""

import argparse
from pathlib import Path

import torch

from callbacks.checkpoints import newest_whole
from models import load
from models.training.base import GenerativeModel
from models.training.checkpoint import read_checkpoint


def checkpoint_at(path: str | Path) -> Path:
    """The path itself, or the newest readable checkpoint in the folder of a run, runs/<name>/<id>, or of a name.

    Raises FileNotFoundError if there is none.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    found = newest_whole(path / "checkpoints") or newest_of_runs(path)
    if found is None:
        reason = why_unreadable(path) or "is it a run's folder, runs/<name>/<id>?"
        raise FileNotFoundError(f"no readable checkpoint in {path}; {reason}")
    return found


def newest_of_runs(folder: Path) -> Path | None:
    """The newest readable checkpoint of the newest run in a folder that has one, or None."""
    runs = sorted((run for run in folder.glob("*") if run.is_dir()), reverse=True)
    return next((found for run in runs if (found := newest_whole(run / "checkpoints"))), None)


def why_unreadable(folder: Path) -> str | None:
    """Why the last checkpoint of a run, or of a name's runs, cannot be read; None if there is none."""
    found = sorted([*folder.glob("checkpoints/*.ckpt"), *folder.glob("*/checkpoints/*.ckpt")])
    try:
        for path in found[-1:]:
            read_checkpoint(path)
    except ValueError as error:
        return str(error)
    return None


def run_folder_of(checkpoint: Path) -> Path | None:
    """The folder of the run that a checkpoint belongs to, or None."""
    folder = checkpoint.resolve().parent.parent
    if not (folder / "run.json").exists():
        return None
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def loaded(options: argparse.Namespace) -> tuple[GenerativeModel, Path]:
    """The model that --ckpt_path names, on --device, and the path of its checkpoint."""
    path = checkpoint_at(options.ckpt_path)
    return load(path, str(usable_device(options.device))), path


def draws_pictures(model: GenerativeModel) -> bool:
    """Whether its samples are grey or colour pictures."""
    return len(model.data_shape) == 3 and model.data_shape[0] in (1, 3)


def require_pictures(model: GenerativeModel, path: Path, remedy: str = "") -> None:
    """Raises ValueError, in one line, if the model does not draw pictures."""
    if not draws_pictures(model):
        raise ValueError(f"{path}: samples of shape {model.data_shape} are not pictures{remedy}")


def usable_device(name: str) -> torch.device:
    """The named device. "auto" is CUDA if available, else MPS, else the CPU.

    Raises ValueError if torch does not know the device, or it is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return torch.device(name)


def origin_line(origin: dict[str, str]) -> str:
    """The source and licence of imported weights, in one line."""
    return f"weights from {origin.get('code', 'elsewhere')}; licence: {origin.get('licence', 'unknown')}"

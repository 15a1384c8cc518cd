"""Where a verb's checkpoint lies and what it runs on."""

from pathlib import Path

import torch

from callbacks.checkpoints import newest_whole


def checkpoint_at(path: str | Path) -> Path:
    """A checkpoint's path, or the newest whole checkpoint of a run's folder.

    Raises:
        FileNotFoundError: if there is none.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    found = newest_whole(path / "checkpoints")
    if found is None:
        raise FileNotFoundError(f"no whole checkpoint in {path}; is it a run's folder, runs/<name>/<id>?")
    return found


def newest_run_checkpoint(root: Path, name: str) -> Path:
    """The newest whole checkpoint of the newest run of this name that has one.

    Raises:
        FileNotFoundError: if there is none.
    """
    folders = sorted((folder for folder in (root / name).glob("*") if folder.is_dir()), reverse=True)
    for folder in folders:
        found = newest_whole(folder / "checkpoints")
        if found is not None:
            return found
    raise FileNotFoundError(
        f"--ckpt_path last: no run in {root / name} has a checkpoint; start one without --ckpt_path"
    )


def run_folder_of(checkpoint: Path) -> Path | None:
    """The folder of the run that a checkpoint lies in, or None: then resuming starts a folder of its own."""
    folder = checkpoint.resolve().parent.parent
    if not (folder / "run.json").exists():
        return None
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def usable_device(name: str) -> str:
    """The name of a device that is there.

    Raises:
        ValueError: if torch does not know it, or it is not there.
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return name

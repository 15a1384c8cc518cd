"""Where a verb's checkpoint lies and what it runs on."""

from pathlib import Path

import torch

from callbacks.checkpoints import newest_whole


def checkpoint_at(path: str | Path) -> Path:
    """A checkpoint's path: as given, or the newest whole one of a run, runs/<name>/<id>, or of a name, runs/<name>.

    Raises:
        FileNotFoundError: if there is none.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    found = newest_whole(path / "checkpoints") or newest_of_runs(path)
    if found is None:
        raise FileNotFoundError(f"no whole checkpoint in {path}; is it a run's folder, runs/<name>/<id>?")
    return found


def newest_of_runs(folder: Path) -> Path | None:
    """The newest whole checkpoint of the newest of the runs in a folder that has one, or None."""
    runs = sorted((run for run in folder.glob("*") if run.is_dir()), reverse=True)
    return next((found for run in runs if (found := newest_whole(run / "checkpoints"))), None)


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


def origin_line(origin: dict[str, str]) -> str:
    """Where imported weights come from and under which licence, in a line."""
    return f"weights from {origin.get('code', 'elsewhere')}; licence: {origin.get('licence', 'unknown')}"

"""Sources of pictures: a folder, a zip, an npz, or the config of a dataset."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from callbacks.picture_sets import real_pictures
from commands.options.checkpoints import run_folder_of
from commands.options.configs import read_config
from commands.options.errors import one_line
from datamodules.archives import open_archive
from datamodules.base import DataModule
from metrics.picture_set import PictureSet
from settings.names import named


def data_from(config: Path) -> DataModule:
    """Builds and sets up the dataset of a run config, a run's config.yaml, or a fragment in configs/data/.

    Raises FileNotFoundError if a file is missing, and ValueError if the config describes no data module of ours.
    """
    content = read_config(config)
    described = content.get("data", content) if isinstance(content, dict) else content
    if isinstance(described, str):
        described = {"class_path": described}
    if not isinstance(described, dict) or not isinstance(described.get("class_path"), str):
        raise ValueError(f"{config} names no dataset; it needs data: {{class_path: ..., init_args: {{...}}}}")
    try:
        owner = named(described["class_path"])
    except ValueError as error:
        raise ValueError(f"{config}: {error}") from error
    if not (isinstance(owner, type) and issubclass(owner, DataModule)):
        raise ValueError(f"{config}: class_path {described['class_path']!r} is not a data module")
    arguments: dict[str, Any] = described.get("init_args") or {}
    try:
        data: DataModule = owner(**arguments)
    except TypeError as error:
        raise ValueError(f"{config}: {one_line(error)}") from error
    data.prepare_data()
    data.setup("validate")
    return data


def config_of_run(checkpoint: Path) -> Path | None:
    """The config.yaml of the run that a checkpoint belongs to, or None."""
    folder = run_folder_of(checkpoint)
    return folder / "config.yaml" if folder is not None and (folder / "config.yaml").is_file() else None


def pictures_at(path: Path, split: str) -> tuple[PictureSet, tuple[int, ...]]:
    """The pictures at a path, and the shape (C, H, W) of each; `split` applies to a dataset."""
    if path.suffix in (".yaml", ".yml"):
        data = data_from(path)
        return real_pictures(data, split), data.data_shape
    archive = open_archive(path)

    def read(indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        labels = None if archive.labels is None else archive.labels[list(indices)]
        return archive.pictures(indices), labels

    classes = 0 if archive.labels is None else int(archive.labels.max()) + 1
    return PictureSet(str(path), archive.fingerprint, len(archive), read, num_classes=classes), archive.shape

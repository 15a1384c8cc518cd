"""What a verb may be pointed at for pictures: a folder, a zip, an npz, or a data set's config."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from callbacks.measuring import real_pictures
from commands.options.checkpoints import run_folder_of
from commands.options.errors import one_line, read_yaml
from datamodules.archives import open_archive
from datamodules.base import DataModule
from metrics.reference import PictureSet


def data_from(config: Path) -> DataModule:
    """The data set that a config names: a run config, a run's config.yaml, or a fragment of configs/data/; set up.

    Raises:
        FileNotFoundError: there is no such file, or no such data.
        ValueError: it names no data module of this project, or one that cannot be built so; the line names the file.
    """
    described, where = _section(config), config
    if isinstance(described, str):  # a fragment's path, relative to the file that names it
        where = config.parent / described
        described = _section(where)
    if not isinstance(described, dict) or not isinstance(described.get("class_path"), str):
        raise ValueError(f"{where}: names no data set; it needs data: {{class_path: ..., init_args: {{...}}}}")
    module, _, name = described["class_path"].rpartition(".")
    try:
        owner = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{where}: class_path {described['class_path']!r} cannot be imported: {error}") from error
    if not (isinstance(owner, type) and issubclass(owner, DataModule)):
        raise ValueError(f"{where}: class_path {described['class_path']!r} is no data module")
    arguments: dict[str, Any] = described.get("init_args") or {}
    try:
        data: DataModule = owner(**arguments)
    except TypeError as error:
        raise ValueError(f"{where}: {one_line(error)}") from error
    data.prepare_data()
    data.setup("validate")
    return data


def _section(config: Path) -> Any:  # noqa: ANN401 - whatever YAML holds
    """The part of a config that describes the data: its `data` key, or the whole of a fragment."""
    if not config.is_file():
        raise FileNotFoundError(f"no config at {config}")
    content = read_yaml(config)
    return content.get("data", content) if isinstance(content, dict) else content


def config_of_run(checkpoint: Path) -> Path | None:
    """The configuration of the run that a checkpoint lies in, or None."""
    folder = run_folder_of(checkpoint)
    return folder / "config.yaml" if folder is not None and (folder / "config.yaml").is_file() else None


def pictures_at(path: Path, split: str) -> tuple[PictureSet, tuple[int, ...]]:
    """The pictures at a path, and the shape (C, H, W) of each; `split` is a data set's.

    Raises:
        FileNotFoundError, ValueError: as `data_from` and `open_archive`.
    """
    if path.suffix in (".yaml", ".yml"):
        data = data_from(path)
        return real_pictures(data, split), data.data_shape
    archive = open_archive(path)

    def read(indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        labels = None if archive.labels is None else archive.labels[list(indices)]
        return archive.pictures(indices), labels

    classes = 0 if archive.labels is None else int(archive.labels.max()) + 1
    return PictureSet(str(path), archive.fingerprint, len(archive), read, num_classes=classes), archive.shape

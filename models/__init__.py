"""Generative models, one family a file. `load` opens a checkpoint in a notebook:

from models import load
load("runs/dcgan_fashion_mnist/.../checkpoints/last.ckpt").sample(range(16), seed=0)
"""

from __future__ import annotations

from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.training.base import GenerativeModel


def load(path: str | Path, device: str = "cpu") -> GenerativeModel:
    """The model of a checkpoint, in evaluation mode. The checkpoint describes itself, so no config is needed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a complete checkpoint of Atelier.
    """
    # Imported here, so that `import models` stays cheap for verbs that need no network.
    from models.training.base import GenerativeModel
    from models.training.checkpoint import own_fields, read_checkpoint
    from settings.configurable import build

    checkpoint = read_checkpoint(path, device)
    try:
        model = build(own_fields(checkpoint)["model"])
    except ValueError as error:
        raise ValueError(f"{path}: {shorten(str(error), 300)}") from error
    if not isinstance(model, GenerativeModel):
        raise ValueError(f"{path}: it describes a {type(model).__name__}, which is not a model")
    model.on_load_checkpoint(checkpoint)
    try:
        model.load_state_dict(checkpoint.get("state_dict", {}))
    except RuntimeError as error:
        reason = shorten(str(error), 300)
        raise ValueError(f"{path}: its weights do not fit the model that it describes: {reason}") from error
    return model.to(device).eval()

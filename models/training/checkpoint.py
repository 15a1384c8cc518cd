"""Atelier's own fields in a checkpoint, their format, and how a checkpoint is read without trusting it."""

import pickle
import re
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch

CHECKPOINT_FORMAT = 3
"""Raised whenever the fields of a checkpoint change their meaning, or weights their names."""
RENAMED = {2: (r"\b(to|from)_picture\b", r"\1_rgb")}
"""By earlier format: the weight names that changed after it, and the new names."""


def own_fields(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Atelier's fields in a checkpoint: format, model, samples_seen, steps, training_seed, and perhaps origin.

    Raises:
        ValueError: if Atelier did not write it, or its format is not this version's.
    """
    own = checkpoint.get("atelier") if isinstance(checkpoint, dict) else None
    if not isinstance(own, dict):
        raise ValueError("it was not written by Atelier")
    if own.get("format") != CHECKPOINT_FORMAT:
        raise ValueError(f"it has format {own.get('format')}, this version reads {CHECKPOINT_FORMAT}")
    for field in ("model", "samples_seen", "steps", "training_seed"):
        if field not in own:
            raise ValueError(f"it lacks {field}")
    return own


def read_checkpoint(path: str | Path, device: str = "cpu") -> dict[str, Any]:
    """A checkpoint's content, read without trusting it: plain types and tensors only.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a complete checkpoint of Atelier, or would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        _rename_weights(checkpoint)
        own_fields(checkpoint)
    except (OSError, torch.OutOfMemoryError):
        raise
    except pickle.UnpicklingError as error:  # torch's message advises running the file's code
        reason = "it is damaged, or holds more than tensors and plain types"
        raise ValueError(f"{path} is not a checkpoint that can be read: {reason}") from error
    except Exception as error:  # a damaged file makes the unpickler raise any of a dozen errors
        reason = shorten(str(error), 200) or type(error).__name__
        raise ValueError(f"{path} is not a checkpoint that can be read: {reason}") from error
    return checkpoint


def _rename_weights(checkpoint: dict[str, Any]) -> None:
    """Gives the weights of an earlier format their new names; nothing else has changed since."""
    own = checkpoint.get("atelier") if isinstance(checkpoint, dict) else None
    if isinstance(own, dict) and own.get("format") in RENAMED:
        pattern, name = RENAMED[own["format"]]
        state = checkpoint.get("state_dict", {})
        checkpoint["state_dict"] = {re.sub(pattern, name, key): value for key, value in state.items()}
        own["format"] = CHECKPOINT_FORMAT

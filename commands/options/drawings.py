"""Output of verbs that draw: pictures and arrays, each with its protocol."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from media.files import write_json_whole, write_whole
from media.pictures import grid, save_png
from models.training.base import GenerativeModel
from settings.sampling import SamplerSettings


def protocol_of(model: GenerativeModel, path: Path, settings: SamplerSettings, own: dict[str, Any]) -> dict[str, Any]:
    """The protocol of a drawing: the checkpoint at `path`, the verb's `own` facts, and the sampler's settings."""
    facts = {"checkpoint": str(path), "model": type(model).__name__, "samples_seen": model.samples_seen}
    return {**facts, **own, "device": model.device.type, "settings": vars(settings)}


def keep_protocol(out: Path, protocol: dict[str, Any]) -> None:
    """Writes the protocol of a picture or an animation beside it, as <its name>.json."""
    write_json_whole(out.with_name(f"{out.name}.json"), protocol)


def keep_sheet(pictures: Tensor, columns: int, out: Path, protocol: dict[str, Any]) -> None:
    """Writes uint8 pictures (N, C, H, W) as one grid, with its protocol beside it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    save_png(grid(pictures, columns), out)
    keep_protocol(out, protocol)


def keep_arrays(arrays: dict[str, np.ndarray], out: Path, protocol: dict[str, Any]) -> None:
    """Writes an npz without pickles, all or nothing. Its entry `protocol` is JSON."""
    whole: dict[str, Any] = {**arrays, "protocol": np.array(json.dumps(protocol))}
    write_whole(out, lambda file: np.savez_compressed(file, **whole))


def keep_pictures(
    pictures: Tensor, labels: Sequence[int] | None, columns: int, out: Path, protocol: dict[str, Any]
) -> None:
    """Writes uint8 pictures (N, C, H, W) as one grid, an npz, or a folder of 000000.png, ..., each with its protocol.

    `columns` applies to a grid. An npz also holds the labels, if there are any.
    """
    if out.suffix == ".png":
        keep_sheet(pictures, columns, out, protocol)
    elif out.suffix == ".npz":
        out.parent.mkdir(parents=True, exist_ok=True)
        known = {"labels": np.array(labels, dtype=np.int64)} if labels else {}
        keep_arrays({"samples": pictures.permute(0, 2, 3, 1).numpy(), **known}, out, protocol)
    else:
        if out.exists() and not out.is_dir():
            raise ValueError(f"--out {out} is a file; name a folder, or a file ending in .png or .npz")
        out.mkdir(parents=True, exist_ok=True)
        for i, picture in enumerate(pictures):
            save_png(picture, out / f"{i:06d}.png")
        write_json_whole(out / "protocol.json", protocol)

"""`sample`: a checkpoint's samples as PNGs, as one grid, or as an npz. No config is needed."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from models.base import GenerativeModel, SamplerSettings


def parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    parser = argparse.ArgumentParser(prog="python main.py sample", description="Draws samples from a checkpoint.")
    parser.add_argument("--ckpt_path", required=True, help="a checkpoint, or a run's folder for its newest one")
    parser.add_argument(
        "--out", required=True, type=Path,
        help="x.png for one grid, x.npz for arrays (samples uint8 NHWC, labels), anything else for a folder of PNGs",
    )  # fmt: skip
    parser.add_argument("--num", type=int, default=64, help="number of samples (64)")
    parser.add_argument("--seed", type=int, default=0, help="samples are a function of seed and index (0)")
    parser.add_argument("--labels", type=int, nargs="+", help="classes, used in turn; drawn uniformly where left out")
    parser.add_argument("--truncation", type=float, help="redraw latents beyond this; off where left out")
    parser.add_argument(
        "--standing_statistics",
        type=int,
        help="batches that batch-norm statistics are re-estimated from; as trained where left out",
    )
    parser.add_argument("--truncation_psi", type=float, help="StyleGAN2: towards the average style; 1 where left out")
    parser.add_argument("--truncation_cutoff", type=int, help="StyleGAN2: layers truncated, from 4 px; all if left out")
    parser.add_argument("--noise", choices=("random", "const", "none"), help="StyleGAN2: of its layers (random)")
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema", help="averaged or last weights (ema)")
    parser.add_argument("--precision", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--batch_size", type=int, default=64, help="samples drawn at once (64)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (cpu)")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Draws and writes; prints where to."""
    options = parser().parse_args(arguments)
    if options.num < 1 or options.batch_size < 1:
        raise ValueError("--num and --batch_size must be at least 1")

    # Imported after the arguments are known to be right: --help and typing errors answer at once.
    import torch
    from tqdm import tqdm

    from commands.checkpoints import checkpoint_at, origin_line, usable_device
    from metrics.pictures import to_uint8
    from models import load

    path = checkpoint_at(options.ckpt_path)
    model = load(path, usable_device(options.device))
    if len(model.data_shape) != 3:
        raise ValueError(f"{path}: samples of shape {model.data_shape} are no pictures")
    settings = settings_of(model, options)
    labels = options.labels and [options.labels[i % len(options.labels)] for i in range(options.num)]
    drawn = []
    with tqdm(total=options.num, unit="sample", disable=not sys.stderr.isatty()) as bar:
        for start in range(0, options.num, options.batch_size):
            indices = range(start, min(start + options.batch_size, options.num))
            chosen = labels[indices.start : indices.stop] if labels else None
            drawn.append(to_uint8(model.sample(indices, chosen, seed=options.seed, settings=settings)).cpu())
            bar.update(len(indices))
    protocol = {
        "checkpoint": str(path),
        "model": type(model).__name__,
        "samples_seen": model.samples_seen,
        "num": options.num,
        "seed": options.seed,
        "labels": options.labels,
        "settings": vars(settings),
        "origin": model.origin,
    }
    write(torch.cat(drawn), labels, options.out, protocol)
    if model.origin is not None:
        print(origin_line(model.origin), file=sys.stderr)
    print(options.out)
    return 0


def settings_of(model: "GenerativeModel", options: argparse.Namespace) -> "SamplerSettings":
    """The model's settings with what the options name.

    Raises:
        ValueError: for an option that this family does not have.
    """
    named: dict[str, Any] = {"weights": options.weights, "precision": options.precision}
    for name in ("truncation", "standing_statistics", "truncation_psi", "truncation_cutoff", "noise"):
        if (value := getattr(options, name)) is not None:
            if name not in {field.name for field in dataclasses.fields(model.settings_class)}:
                raise ValueError(f"{type(model).__name__} has no {name}")
            named[name] = value
    return model.settings_class(**named)


def write(pictures: Any, labels: Sequence[int] | None, out: Path, protocol: dict[str, Any]) -> None:  # noqa: ANN401 - a uint8 tensor; torch is not imported here
    """Writes uint8 (N, C, H, W) pictures, each file whole or not at all.

    A folder is filled with 000000.png, ...; its protocol.json, or an npz's `protocol`, says how they were drawn.
    """
    import numpy as np

    from metrics.files import write_json_whole, write_whole
    from metrics.pictures import grid, save_png

    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".png":
        save_png(grid(pictures, columns=max(1, round(len(pictures) ** 0.5))), out)
    elif out.suffix == ".npz":
        arrays = {"samples": pictures.permute(0, 2, 3, 1).numpy(), "protocol": np.array(json.dumps(protocol))}
        if labels:
            arrays["labels"] = np.array(labels, dtype=np.int64)

        def save(file: BinaryIO) -> None:
            np.savez_compressed(file, **arrays)

        write_whole(out, save)
    else:
        if out.exists() and not out.is_dir():
            raise ValueError(f"--out {out} is a file; name a folder, or one ending in .png or .npz")
        out.mkdir(exist_ok=True)
        for i, picture in enumerate(pictures):
            save_png(picture, out / f"{i:06d}.png")
        write_json_whole(out / "protocol.json", protocol)

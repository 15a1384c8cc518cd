"""`sample`: a checkpoint's samples as PNGs, as one grid, as an npz, or as text. No config is needed."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from commands.options.sampler import add_arguments, in_turn, keep_protocol, settings_of, sweep_of


def parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    parser = argparse.ArgumentParser(prog="python main.py sample", description="Draws samples from a checkpoint.")
    parser.add_argument("--ckpt_path", required=True, help="a checkpoint, or a run's folder for its newest one")
    parser.add_argument(
        "--out", required=True, type=Path,
        help="x.png for one grid, x.npz for arrays (samples uint8 NHWC, labels), anything else for a folder of PNGs; "
        "of several truncations one sheet, x.png, a row each; of a model of text, x.txt; of points of the plane, x.png "
        "of where they lie",
    )  # fmt: skip
    parser.add_argument("--num", type=int, help="number of samples (64; 8 a row of a sheet)")
    parser.add_argument("--seed", type=int, default=0, help="samples are a function of seed and index (0)")
    parser.add_argument("--labels", type=int, nargs="+", help="classes, used in turn; drawn uniformly where left out")
    add_arguments(parser, several=True)
    parser.add_argument("--batch_size", type=int, default=64, help="samples drawn at once (64)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (cpu)")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Draws and writes; prints where to."""
    options = parser().parse_args(arguments)
    swept, variants = sweep_of(options)
    num = options.num if options.num is not None else 64 if swept is None else 8
    if num < 1 or options.batch_size < 1:
        raise ValueError("--num and --batch_size must be at least 1")
    if swept is not None and options.out.suffix != ".png":
        raise ValueError(f"--out {options.out}: several values of --{swept} make one sheet; name a file ending in .png")

    # Imported after the arguments are known to be right: --help and typing errors answer at once.
    import torch
    from tqdm import tqdm

    from callbacks.text_samples import joined
    from commands.options.checkpoints import checkpoint_at, origin_line, usable_device
    from media.files import write_text_whole
    from media.pictures import to_uint8, where_points_lie
    from models import load

    path = checkpoint_at(options.ckpt_path)
    model = load(path, usable_device(options.device))
    of_text, of_points = model.alphabet is not None, tuple(model.data_shape) == (2,)
    if len(model.data_shape) != 3 and not of_text and not of_points:
        raise ValueError(f"{path}: samples of shape {model.data_shape} are no pictures")
    if of_text != (options.out.suffix == ".txt") or (of_points and (swept or options.out.suffix != ".png")):
        kind, where = ("text", "x.txt") if of_text else ("points", "x.png") if of_points else ("pictures", "x.png")
        raise ValueError(f"--out {options.out}: {kind} cannot be written there; name a file such as {where}")
    all_settings = [settings_of(model, variant) for variant in variants]
    labels = in_turn(options.labels, num)
    drawn = []
    with tqdm(total=num * len(all_settings), unit="sample", disable=not sys.stderr.isatty()) as bar:
        for settings in all_settings:
            for start in range(0, num, options.batch_size):
                indices = range(start, min(start + options.batch_size, num))
                chosen = labels[indices.start : indices.stop] if labels else None
                x = model.sample(indices, chosen, seed=options.seed, settings=settings)
                drawn.append((x if of_text or of_points else to_uint8(x)).cpu())
                bar.update(len(indices))
    protocol: dict[str, Any] = {
        "checkpoint": str(path),
        "model": type(model).__name__,
        "samples_seen": model.samples_seen,
        "num": num,
        "seed": options.seed,
        "labels": options.labels,
        "settings": vars(all_settings[0]),
        "origin": model.origin,
    }
    if swept is not None:
        protocol["rows"] = {swept: getattr(options, swept)}
    if of_text:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_text_whole(options.out, joined(model.text_of(torch.cat(drawn))))
        keep_protocol(options.out, protocol)
    elif of_points:
        write(where_points_lie(torch.cat(drawn))[None], labels, options.out, protocol, 1)
    else:
        columns = num if swept is not None else max(1, round(num**0.5))
        write(torch.cat(drawn), labels, options.out, protocol, columns)
    if model.origin is not None:
        print(origin_line(model.origin), file=sys.stderr)
    print(options.out)
    return 0


def write(
    pictures: Any,  # noqa: ANN401 - a uint8 tensor; torch is not imported here
    labels: Sequence[int] | None,
    out: Path,
    protocol: dict[str, Any],
    columns: int,
) -> None:
    """Writes uint8 (N, C, H, W) pictures, each file whole or not at all.

    A folder is filled with 000000.png, ...; its protocol.json, an npz's `protocol`, or a grid's x.png.json says how
    they were drawn. `columns` are those of a grid.
    """
    import numpy as np

    from media.files import write_json_whole, write_whole
    from media.pictures import grid, save_png

    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".png":
        save_png(grid(pictures, columns), out)
        keep_protocol(out, protocol)
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

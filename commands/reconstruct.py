"""`reconstruct`: pictures, each with what a checkpoint makes of it after encoding it, and how far off that is."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from commands.options.sampler import add_arguments, keep_protocol, settings_of


def parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    parser = argparse.ArgumentParser(
        prog="python main.py reconstruct",
        description="Encodes pictures and decodes them again: rows of pictures, each with its reconstructions below.",
    )
    parser.add_argument("--ckpt_path", required=True, help="a checkpoint, or a run's folder for its newest one")
    parser.add_argument("--out", required=True, type=Path, help="x.png")
    parser.add_argument(
        "--pictures", type=Path, help="a folder, zip or npz of pictures, or a data config (the run's own data)"
    )
    parser.add_argument("--split", choices=("train", "test"), help="of a data config's (test, where there is one)")
    parser.add_argument("--rows", type=int, default=4, help="rows of pictures, drawn with a fixed seed (4)")
    parser.add_argument("--columns", type=int, default=8, help="pictures a row (8)")
    add_arguments(parser)
    parser.add_argument("--batch_size", type=int, default=64, help="pictures at once (64)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (cpu)")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Encodes, decodes and writes; prints where to, and the error."""
    options = parser().parse_args(arguments)
    if options.out.suffix != ".png":
        raise ValueError(f"--out {options.out}: name a file that ends in .png")
    if min(options.rows, options.columns, options.batch_size) < 1:
        raise ValueError("--rows, --columns and --batch_size must be at least 1")

    # Imported after the arguments are known to be right: --help and typing errors answer at once.
    from callbacks.measuring import held_out
    from callbacks.sample_grid import reconstruction_grid
    from commands.options.checkpoints import checkpoint_at, usable_device
    from commands.options.latents import fitting_pictures, with_decoder
    from commands.options.sources import config_of_run, data_from
    from media.pictures import grid, save_png
    from models import load

    path = checkpoint_at(options.ckpt_path)
    model = load(path, usable_device(options.device))
    with_decoder(model, path)
    source = options.pictures or config_of_run(path)
    if source is None:
        raise ValueError(f"{path} lies in no run's folder: say which pictures, by --pictures")
    split = options.split
    if split is None:
        split = held_out(data_from(source)) if source.suffix in (".yaml", ".yml") else "test"
    pictures = fitting_pictures(source, split, model)
    columns = min(options.columns, pictures.count)
    pictures = pictures.subset(columns * min(options.rows, pictures.count // columns))
    settings = settings_of(model, options)
    drawn = reconstruction_grid(model, pictures, columns, options.batch_size, settings)
    originals, made = drawn.float().unflatten(0, (-1, 2, columns)).unbind(1)
    error = float((originals - made).square().mean())
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_png(grid(drawn, columns), options.out)
    protocol = {
        "checkpoint": str(path),
        "model": type(model).__name__,
        "samples_seen": model.samples_seen,
        "pictures": str(source),
        "split": split,
        "num": pictures.count,
        "mean_squared_error_of_bytes": error,
        "settings": vars(settings),
    }
    keep_protocol(options.out, protocol)
    print(f"{options.out}: root mean squared error {error**0.5:.3g} of 255, {pictures.count} pictures ({split})")
    return 0

"""`reconstruct`: pictures beside what a checkpoint makes of them after encoding, and the error."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from commands.options.parsers import checkpoint_parser, parsed, require_suffix, with_sampling
from commands.options.sampler import settings_of


def parser() -> argparse.ArgumentParser:
    parser = checkpoint_parser(
        "reconstruct", "Encodes pictures and decodes them: rows of pictures, each with its reconstructions below."
    )
    parser.add_argument("--out", required=True, type=Path, help="x.png")
    parser.add_argument("--pictures", type=Path, help="a folder, zip or npz, or a data config (the run's own data)")
    parser.add_argument("--split", choices=("train", "test"), help="split of a data config (test, if there is one)")
    parser.add_argument("--rows", type=int, default=4, help="rows of pictures, drawn with a fixed seed (4)")
    parser.add_argument("--columns", type=int, default=8, help="pictures per row (8)")
    return with_sampling(parser, seed=None, batch="pictures per batch")


def run(arguments: Sequence[str]) -> int:
    """Encodes, decodes and writes; prints the file and the error."""
    options = parsed(parser(), arguments, {"rows": 1, "columns": 1})
    require_suffix("out", options.out)

    from callbacks.picture_sets import held_out
    from callbacks.sample_grid import reconstruction_grid
    from commands.options.checkpoints import loaded
    from commands.options.drawings import keep_sheet, protocol_of
    from commands.options.latents import fitting_pictures, with_decoder
    from commands.options.sources import config_of_run, data_from

    model, path = loaded(options)
    with_decoder(model, path)
    source = options.pictures or config_of_run(path)
    if source is None:
        raise ValueError(f"{path} is not in a run's folder: name pictures by --pictures")
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
    own = {"pictures": str(source), "split": split, "num": pictures.count, "mean_squared_error_of_bytes": error}
    keep_sheet(drawn, columns, options.out, protocol_of(model, path, settings, own))
    print(f"{options.out}: root mean squared error {error**0.5:.3g} of 255, {pictures.count} pictures ({split})")
    return 0

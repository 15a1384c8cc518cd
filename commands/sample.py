"""`sample`: draws samples from a checkpoint as PNGs, one grid, an npz, or text. It needs no config."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from commands.options.parsers import checkpoint_parser, parsed, with_sampling
from commands.options.sampler import in_turn, sweep_of


def parser() -> argparse.ArgumentParser:
    parser = checkpoint_parser("sample", "Draws samples from a checkpoint.")
    parser.add_argument(
        "--out", required=True, type=Path,
        help="x.png for one grid, x.npz for arrays (samples uint8 NHWC, labels), any other name for a folder of PNGs; "
        "x.png for several values of a setting, a row each, and for points in the plane; x.txt for text",
    )  # fmt: skip
    parser.add_argument("--num", type=int, help="number of samples (64; 8 per row of a sheet)")
    parser.add_argument("--labels", type=int, nargs="+", help="classes, used in turn; drawn uniformly if left out")
    return with_sampling(parser, batch="samples per batch", several=True)


def run(arguments: Sequence[str]) -> int:
    """Draws and writes; prints the file."""
    options = parsed(parser(), arguments, {"num": 1})

    import torch
    from tqdm import tqdm

    from callbacks.text_samples import joined
    from commands.options.checkpoints import loaded, origin_line
    from commands.options.drawings import keep_pictures, keep_protocol, protocol_of
    from media.files import write_text_whole
    from media.pictures import to_uint8, where_points_lie

    model, path = loaded(options)
    swept, all_settings = sweep_of(model, options)
    num = options.num if options.num is not None else 64 if swept is None else 8
    if swept is not None and options.out.suffix != ".png":
        raise ValueError(f"--out {options.out}: several values of --{swept} make one sheet; name a file ending in .png")
    of_text, of_points = model.alphabet is not None, tuple(model.data_shape) == (2,)
    if len(model.data_shape) != 3 and not of_text and not of_points:
        raise ValueError(f"{path}: samples of shape {model.data_shape} are not pictures")
    if of_text != (options.out.suffix == ".txt") or (of_points and (swept or options.out.suffix != ".png")):
        kind, where = ("text", "x.txt") if of_text else ("points", "x.png") if of_points else ("pictures", "x.png")
        raise ValueError(f"--out {options.out}: {kind} cannot be written there; name a file such as {where}")
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
    own = {"num": num, "seed": options.seed, "labels": options.labels}
    protocol = {**protocol_of(model, path, all_settings[0], own), "origin": model.origin}
    if swept is not None:
        protocol["rows"] = {swept: [getattr(settings, swept) for settings in all_settings]}
    if of_text:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_text_whole(options.out, joined(model.text_of(torch.cat(drawn))))
        keep_protocol(options.out, protocol)
    elif of_points:
        keep_pictures(where_points_lie(torch.cat(drawn))[None], labels, 1, options.out, protocol)
    else:
        columns = num if swept is not None else max(1, round(num**0.5))
        keep_pictures(torch.cat(drawn), labels, columns, options.out, protocol)
    if model.origin is not None:
        print(origin_line(model.origin), file=sys.stderr)
    print(options.out)
    return 0

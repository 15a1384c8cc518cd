"""`mix`: a sheet of samples whose styles come from two sources (Karras et al. 2019, figure 3)."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from commands.options.sampler import add_arguments, in_turn, keep_protocol, settings_of

NAMED = {"coarse": (0, 2), "middle": (3, 6), "fine": (7, None)}
"""First and last layer of 4 and 8 px, of 16 and 32 px, and of all beyond (Karras et al. 2019, section 3.1).

StyleGAN2 has one convolution at 4 px and two at each side beyond; the picture of a side reads the style of the next
convolution, and the last picture has its own.
"""


def parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    parser = argparse.ArgumentParser(
        prog="python main.py mix",
        description="Mixes styles: each picture is its row's source, with some layers' styles from its column's.",
    )
    parser.add_argument("--ckpt_path", required=True, help="a checkpoint, or a run's folder for its newest one")
    parser.add_argument("--out", required=True, type=Path, help="x.png; sources in the first column and the first row")
    parser.add_argument("--rows", type=int, default=4, help="number of sources that are changed (4)")
    parser.add_argument("--columns", type=int, default=6, help="number of sources that give styles (6)")
    parser.add_argument(
        "--layers", default="coarse",
        help="whose styles the columns give: coarse (4, 8 px), middle (16, 32 px), fine (beyond), or such as 0-5 or 3 "
        "(coarse)",
    )  # fmt: skip
    parser.add_argument("--indices", type=int, nargs="+", help="the sources: the rows', then the columns' (0, 1, ...)")
    parser.add_argument("--seed", type=int, default=0, help="samples are a function of seed and index (0)")
    parser.add_argument(
        "--labels", type=int, nargs="+",
        help="the sources' classes, used in turn; drawn uniformly where left out",
    )  # fmt: skip
    add_arguments(parser)
    parser.add_argument("--batch_size", type=int, default=64, help="pictures drawn at once (64)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (cpu)")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Draws and writes; prints where to."""
    options = parser().parse_args(arguments)
    rows, columns = options.rows, options.columns
    if rows < 1 or columns < 1 or options.batch_size < 1:
        raise ValueError("--rows, --columns and --batch_size must be at least 1")
    if options.out.suffix != ".png":
        raise ValueError(f"--out {options.out}: name a file that ends in .png")
    indices = options.indices or list(range(rows + columns))
    if len(indices) != rows + columns or min(indices) < 0:
        raise ValueError(f"--indices needs {rows} + {columns} numbers, none negative, not {indices}")

    # Imported after the arguments are known to be right: --help and typing errors answer at once.
    import torch
    from tqdm import tqdm

    from commands.options.checkpoints import checkpoint_at, usable_device
    from commands.options.latents import decoded, decoder, with_styles
    from media.pictures import grid, save_png
    from models import load

    path = checkpoint_at(options.ckpt_path)
    model = load(path, usable_device(options.device))
    styled = with_styles(model, path, " to mix")
    settings = settings_of(model, options, still_noise=True)
    labels = model.sample_labels(indices, in_turn(options.labels, len(indices)), seed=options.seed)
    latents = styled.draw_latents(indices, seed=options.seed, settings=settings)
    ws = styled.to_w(latents, labels, settings=settings)
    first, last = layers_of(options.layers, ws.shape[1])
    mixed = ws[:rows, None].repeat(1, columns, 1, 1)
    mixed[:, :, first : last + 1] = ws[None, rows:, first : last + 1]
    points = torch.cat([ws, mixed.flatten(0, 1)])
    # Styles carry their classes: the labels of mixed ones are not asked for.
    pictures = decoded(decoder(styled, "w", settings), points, labels.new_zeros(len(points)), options.batch_size)
    with tqdm(pictures, total=len(points), unit="picture", disable=not sys.stderr.isatty()) as bar:
        drawn = torch.stack(list(bar))
    sources, inner = drawn[: rows + columns], drawn[rows + columns :].unflatten(0, (rows, columns))
    lines = [torch.cat([torch.zeros_like(drawn[:1]), sources[rows:]])]
    lines += [torch.cat([sources[row : row + 1], inner[row]]) for row in range(rows)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_png(grid(torch.cat(lines), columns + 1), options.out)
    protocol = {
        "checkpoint": str(path),
        "model": type(model).__name__,
        "samples_seen": model.samples_seen,
        "rows": indices[:rows],
        "columns": indices[rows:],
        "layers_of_columns": [first, last],
        "seed": options.seed,
        "labels": labels.tolist() if model.label_classes else None,
        "settings": vars(settings),
    }
    keep_protocol(options.out, protocol)
    print(options.out)
    return 0


def layers_of(text: str, layers: int) -> tuple[int, int]:
    """First and last layer, of a model with so many, that "coarse", "middle", "fine", "0-5" or "3" means.

    Raises:
        ValueError: it means none, or some that this model does not have.
    """
    if text in NAMED:
        first, end = NAMED[text]
        last = layers - 1 if end is None else min(end, layers - 1)
    else:
        head, dash, tail = text.partition("-")
        if not head.isdecimal() or (dash and not tail.isdecimal()):
            raise ValueError(f"--layers {text}: expected {', '.join(NAMED)}, or layers such as 0-5 or 3")
        first = int(head)
        last = int(tail) if dash else first
    if not first <= last < layers:
        raise ValueError(f"--layers {text}: this model has layers 0 to {layers - 1}, from 4 px up")
    return first, last

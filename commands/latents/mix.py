"""`latents mix`: a sheet of samples whose styles come from two sources (Karras et al. 2019, figure 3)."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from commands.options.parsers import checkpoint_parser, parsed, require_suffix, with_sampling
from commands.options.sampler import in_turn, settings_of


def parser() -> argparse.ArgumentParser:
    parser = checkpoint_parser(
        "latents mix",
        "Mixes styles: each picture is its row's source, with the styles of some layers from its column's.",
    )
    parser.add_argument("--out", required=True, type=Path, help="x.png; sources are in the first column and first row")
    parser.add_argument("--rows", type=int, default=4, help="sources that are changed (4)")
    parser.add_argument("--columns", type=int, default=6, help="sources that give styles (6)")
    parser.add_argument(
        "--layers", default="coarse",
        help="layers that get the columns' styles: coarse (4, 8 px), middle (16, 32 px), fine (beyond), or such as 0-5 "
        "or 3 (coarse)",
    )  # fmt: skip
    parser.add_argument("--indices", type=int, nargs="+", help="the sources: rows first, then columns (0, 1, ...)")
    parser.add_argument("--labels", type=int, nargs="+", help="classes of sources, used in turn; drawn if left out")
    return with_sampling(parser)


def run(arguments: Sequence[str]) -> int:
    """Draws and writes; prints the file."""
    options = parsed(parser(), arguments, {"rows": 1, "columns": 1})
    rows, columns = options.rows, options.columns
    require_suffix("out", options.out)
    indices = options.indices or list(range(rows + columns))
    if len(indices) != rows + columns or min(indices) < 0:
        raise ValueError(f"--indices needs {rows} + {columns} numbers, none negative, not {indices}")

    import torch

    from commands.options.checkpoints import loaded
    from commands.options.drawings import keep_sheet, protocol_of
    from commands.options.latents import decoded, decoder, layers_of, with_styles

    model, path = loaded(options)
    styled = with_styles(model, path, " to mix")
    settings = settings_of(model, options, still_noise=True)
    labels = model.sample_labels(indices, in_turn(options.labels, len(indices)), seed=options.seed)
    latents = styled.draw_latents(indices, seed=options.seed, settings=settings)
    ws = styled.to_w(latents, labels, settings=settings)
    first, last = layers_of(options.layers, ws.shape[1])
    mixed = ws[:rows, None].repeat(1, columns, 1, 1)
    mixed[:, :, first : last + 1] = ws[None, rows:, first : last + 1]
    points = torch.cat([ws, mixed.flatten(0, 1)])
    # Styles contain their classes, so the labels of mixed ones are ignored.
    pictures = decoded(decoder(styled, "w", settings), points, labels.new_zeros(len(points)), options.batch_size)
    drawn = torch.stack(list(pictures))
    sources, inner = drawn[: rows + columns], drawn[rows + columns :].unflatten(0, (rows, columns))
    lines = [torch.cat([torch.zeros_like(drawn[:1]), sources[rows:]])]
    lines += [torch.cat([sources[row : row + 1], inner[row]]) for row in range(rows)]
    own = {
        "rows": indices[:rows],
        "columns": indices[rows:],
        "layers_of_columns": [first, last],
        "seed": options.seed,
        "labels": labels.tolist() if model.label_classes else None,
    }
    keep_sheet(torch.cat(lines), columns + 1, options.out, protocol_of(model, path, settings, own))
    print(options.out)
    return 0

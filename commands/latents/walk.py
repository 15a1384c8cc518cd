"""`latents walk`: interpolations between samples of a checkpoint, as a strip of pictures or an animation."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commands.options.parsers import checkpoint_parser, parsed, require_suffix, with_sampling
from commands.options.sampler import in_turn, settings_of

SUFFIXES = (".png", ".gif", ".mp4")


def parser() -> argparse.ArgumentParser:
    parser = checkpoint_parser(
        "latents walk", "Interpolates between samples: latents on great circles, or styles on straight lines."
    )
    parser.add_argument(
        "--out", required=True, type=Path,
        help="x.png for a strip, a row per path; x.gif or x.mp4 for a looped animation, all paths in one picture",
    )  # fmt: skip
    parser.add_argument("--space", choices=("z", "w"), default="z", help="latents, or StyleGAN2's styles (z)")
    parser.add_argument("--rows", type=int, default=4, help="number of paths (4)")
    parser.add_argument("--points", type=int, help="samples on each path (2 in a strip, 4 if animated)")
    parser.add_argument("--pictures", type=Path, help="encode and use these: a folder, zip, npz or data config")
    parser.add_argument("--split", choices=("train", "test"), default="test", help="split of a data config (test)")
    parser.add_argument("--indices", type=int, nargs="+", help="rows x points samples, path after path (0, 1, 2, ...)")
    parser.add_argument("--steps", type=int, help="steps from one sample to the next (8 in a strip, 25 if animated)")
    parser.add_argument("--fps", type=int, default=25, help="frames per second (25)")
    parser.add_argument(
        "--labels", type=int, nargs="+", help="classes of paths, used in turn (that of the first sample)"
    )
    return with_sampling(parser)


def run(arguments: Sequence[str]) -> int:
    """Draws and writes; prints the file."""
    options = parsed(parser(), arguments, {"rows": 1, "points": 2, "steps": 1, "fps": 1})
    animated = options.out.suffix != ".png"
    require_suffix("out", options.out, SUFFIXES)
    paths = indices_of(options, animated)
    steps = options.steps if options.steps is not None else 25 if animated else 8

    import torch

    from commands.options.checkpoints import loaded
    from commands.options.drawings import keep_protocol, keep_sheet, protocol_of
    from commands.options.latents import (
        decoded,
        decoder,
        fitting_pictures,
        read_pictures,
        with_decoder,
        with_latents,
        with_styles,
    )
    from media.animations import GIF_FPS, save_gif, save_mp4, video_package
    from media.pictures import grid
    from metrics.interpolation import along, lerp, slerp

    if options.out.suffix == ".mp4":
        video_package()
    if options.out.suffix == ".gif" and options.fps > GIF_FPS:
        raise ValueError(f"--fps {options.fps}: a GIF shows {GIF_FPS} frames a second at most; name an .mp4")
    model, path = loaded(options)
    latent = with_latents(model, path) if options.pictures is None else with_decoder(model, path)
    if options.space == "w":
        with_styles(model, path, "; leave out --space w")
    if options.pictures is not None and options.space == "w":
        raise ValueError("--pictures are encoded as latents: leave out --space w")
    source = None if options.pictures is None else fitting_pictures(options.pictures, options.split, model)
    settings = settings_of(model, options, still_noise=True)
    rows = len(paths)
    firsts = [points[0] for points in paths]
    given = in_turn(options.labels, rows)
    if source is not None and given is None and model.label_classes:
        given = read_pictures(source, firsts, model)[1].tolist()
    labels = model.sample_labels(firsts, given, seed=options.seed)

    walked = []
    for points, label in zip(paths, labels, strict=True):
        if source is not None:
            z = with_decoder(model, path).encode(
                read_pictures(source, points, model)[0], label.repeat(len(points)), settings=settings
            )
        else:
            z = with_latents(model, path).draw_latents(points, seed=options.seed, settings=settings)
        if options.space == "w":
            ws = with_styles(model, path).to_w(z, label.repeat(len(z)), settings=settings)
            walked.append(along(ws, steps, animated, lerp))
        else:  # in float64, which some devices lack
            walked.append(along(z.cpu().double(), steps, animated, slerp).to(z))
    frames = torch.stack(walked, 1)  # (frames, rows, ...)
    decode = decoder(latent, options.space, settings)
    pictures = decoded(decode, frames.flatten(0, 1), labels.repeat(len(frames)), options.batch_size)

    own: dict[str, Any] = {
        "space": options.space,
        "pictures": None if options.pictures is None else str(options.pictures),
        "indices": paths,
        "steps": steps,
        "seed": options.seed,
        "labels": labels.tolist() if model.label_classes else None,
    }
    protocol = protocol_of(model, path, settings, own)
    if not animated:
        strip = torch.stack(list(pictures)).unflatten(0, (-1, rows)).transpose(0, 1).flatten(0, 1)
        keep_sheet(strip, len(frames), options.out, protocol)
    else:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        columns = max(1, round(rows**0.5))
        save = save_gif if options.out.suffix == ".gif" else save_mp4
        of_a_frame = zip(*[pictures] * rows, strict=True)
        save((grid(torch.stack(each), columns) for each in of_a_frame), options.out, options.fps)
        keep_protocol(options.out, {**protocol, "fps": options.fps})
    print(options.out)
    return 0


def indices_of(options: argparse.Namespace, animated: bool) -> list[list[int]]:
    """The indices of the samples on each path."""
    rows = options.rows
    points = options.points if options.points is not None else 4 if animated else 2
    if options.indices is not None and options.points is None:
        points = len(options.indices) // rows
    if points < 2:
        raise ValueError(f"--rows {rows} of {points} samples each: take at least 2 samples per path")
    indices = options.indices or list(range(rows * points))
    if len(indices) != rows * points:
        raise ValueError(f"--indices names {len(indices)} samples; {rows} rows of {points} points need {rows * points}")
    if min(indices) < 0:
        raise ValueError(f"--indices must not be negative, not {min(indices)}")
    return [indices[row * points : (row + 1) * points] for row in range(rows)]

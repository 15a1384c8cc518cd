"""`directions`: a sheet of edits along directions of the latent space: SeFa (Shen & Zhou 2021) and GANSpace (2020)."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from commands.options.sampler import add_arguments, keep_protocol, settings_of

if TYPE_CHECKING:
    from torch import Tensor

    from models.training.base import SamplerSettings
    from models.training.capabilities import HasLatents


def parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    parser = argparse.ArgumentParser(
        prog="python main.py directions",
        description="Edits a picture along the directions that change pictures most, a row each.",
    )
    parser.add_argument("--ckpt_path", required=True, help="a checkpoint, or a run's folder for its newest one")
    parser.add_argument("--out", required=True, type=Path, help="x.png")
    parser.add_argument(
        "--of", choices=("sefa", "pca"), default="sefa",
        help="sefa: what the first weights stretch most; pca: principal components of styles, as GANSpace (sefa)",
    )  # fmt: skip
    parser.add_argument("--number", type=int, default=5, help="directions, a row each (5)")
    parser.add_argument(
        "--layers", help="StyleGAN2: that are moved: coarse, middle, fine, or such as 0-5 or 3; all where left out"
    )
    parser.add_argument(
        "--range", type=float, default=3.0, help="of a row, to either side, in standard deviations along it (3)"
    )
    parser.add_argument("--columns", type=int, default=7, help="pictures a row (7)")
    parser.add_argument("--latent", type=Path, help="latent.npz of `project`: what to edit; a sample if left out")
    parser.add_argument("--index", type=int, default=0, help="of the sample to edit (0)")
    parser.add_argument("--label", type=int, help="class of the sample; drawn where left out")
    parser.add_argument("--num_samples", type=int, default=10_000, help="latents that deviations are of (10000)")
    parser.add_argument("--seed", type=int, default=0, help="samples are a function of seed and index (0)")
    add_arguments(parser)
    parser.add_argument("--batch_size", type=int, default=64, help="pictures drawn at once (64)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (cpu)")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Draws and writes; prints where to."""
    options = parser().parse_args(arguments)
    if options.number < 1 or options.columns < 2 or options.batch_size < 1 or options.num_samples < 2:
        raise ValueError("--number and --batch_size must be at least 1, --columns and --num_samples at least 2")
    if not 0 < options.range < float("inf"):
        raise ValueError(f"--range {options.range}: take a number above 0, such as 3")
    if options.index < 0:
        raise ValueError("--index must not be negative")
    if options.out.suffix != ".png":
        raise ValueError(f"--out {options.out}: name a file that ends in .png")

    # Imported after the arguments are known to be right: --help and typing errors answer at once.
    import torch
    from tqdm import tqdm

    from commands.options.checkpoints import checkpoint_at, usable_device
    from commands.options.latents import Decode, decoded, decoder, read_projection, with_latents
    from media.pictures import grid, save_png
    from metrics.directions import deviations
    from models import load
    from models.training.capabilities import HasStyles

    path = checkpoint_at(options.ckpt_path)
    model = load(path, usable_device(options.device))
    latent = with_latents(model, path)
    settings = settings_of(model, options, still_noise=True)
    projection = None if options.latent is None else read_projection(options.latent, model)
    if projection is None:
        named = None if options.label is None else [options.label]
        label = model.sample_labels([options.index], named, seed=options.seed)
    elif options.label is not None:
        raise ValueError("--label: the class of --latent is that of its projection; leave one of them out")
    else:
        label = torch.tensor([projection.label], device=model.device)

    drawn = latent.draw_latents(range(options.num_samples), seed=options.seed, settings=settings)
    layers: tuple[int, int] | None = None
    if isinstance(latent, HasStyles):
        # Truncation moves the sample, and leaves the unit that its edits count in.
        plain = model.settings_class(weights=options.weights)
        ws = latent.to_w(drawn, label.repeat(len(drawn)), settings=plain)
        layers = layers_to_move(options.layers, ws.shape[1])
        points = ws[:, 0]
    elif options.layers is not None:
        raise ValueError(f"--layers: {type(model).__name__} has no styles, one a layer; leave it out")
    else:
        points = drawn
    directions, strengths = found(latent, points, options, layers, settings, path)
    amounts = torch.linspace(-options.range, options.range, options.columns, dtype=torch.float64)
    moves = directions * deviations(points.cpu(), directions)[:, None]
    steps = (amounts[None, :, None] * moves[:, None]).to(points).flatten(0, 1)  # (rows * columns, D)

    if projection is not None:
        source = projection.point
    else:
        source = latent.draw_latents([options.index], seed=options.seed, settings=settings)
        if isinstance(latent, HasStyles):
            source = latent.to_w(source, label, settings=settings)
    noises = [] if projection is None else projection.noises
    if isinstance(latent, HasStyles):
        assert layers is not None
        styled = latent
        edited = source.repeat(len(steps), 1, 1)
        edited[:, layers[0] : layers[1] + 1] += steps[:, None]

        def decode_styles(ws: "Tensor", labels: "Tensor") -> "Tensor":
            kept = [noise.expand(len(ws), -1, -1, -1) for noise in noises]
            return styled.from_w(ws, noise=kept or None, settings=settings)

        decode: Decode = decode_styles
    else:
        edited = source + steps

        decode = decoder(latent, "z", settings)

    pictures = decoded(decode, edited, label.repeat(len(edited)), options.batch_size)
    with tqdm(pictures, total=len(edited), unit="picture", disable=not sys.stderr.isatty()) as bar:
        sheet = grid(torch.stack(list(bar)), options.columns)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_png(sheet, options.out)
    protocol = {
        "checkpoint": str(path),
        "model": type(model).__name__,
        "samples_seen": model.samples_seen,
        "of": options.of,
        "eigenvalues": strengths.tolist(),
        "layers": layers,
        "amounts": amounts.tolist(),
        "num_samples": options.num_samples,
        "latent": None if options.latent is None else str(options.latent),
        "index": options.index if projection is None else None,
        "seed": options.seed,
        "label": int(label) if model.label_classes else None,
        "settings": vars(settings),
    }
    keep_protocol(options.out, protocol)
    print(options.out)
    return 0


def layers_to_move(text: str | None, layers: int) -> tuple[int, int]:
    """First and last layer that --layers means, of so many; all of them for None. ValueError as `layers_of`."""
    from commands.mix import layers_of

    return (0, layers - 1) if text is None else layers_of(text, layers)


def found(
    latent: "HasLatents",
    points: "Tensor",
    options: argparse.Namespace,
    layers: tuple[int, int] | None,
    settings: "SamplerSettings",
    path: Path,
) -> "tuple[Tensor, Tensor]":
    """Unit directions (number, D) and their eigenvalues, float64 on the CPU.

    Raises:
        ValueError: the space has fewer directions, or this family none of this kind.
    """
    import torch

    from metrics.directions import factorized, principal
    from models.training.capabilities import HasLatentWeights, HasStyles

    name = type(latent).__name__
    if isinstance(latent, HasStyles):
        if options.of == "pca":
            return principal(points.cpu(), options.number)
        assert layers is not None
        weights = latent.style_weights(settings)[layers[0] : layers[1] + 1]
        if not weights:
            raise ValueError(f"--layers {options.layers}: only a picture reads this style; take one below, or --of pca")
        return factorized(torch.cat(weights).cpu(), options.number)
    if options.of == "pca":
        raise ValueError(f"{path}: {name}'s latents are drawn alike in all directions; leave out --of pca")
    if not isinstance(latent, HasLatentWeights):
        raise ValueError(f"{path}: {name}'s latents do not pass one linear map, which SeFa factorizes")
    return factorized(latent.latent_weights(settings).cpu(), options.number)

"""`latents directions`: edits along directions of the latent space: SeFa (Shen & Zhou 2021) and GANSpace (2020)."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from commands.options.parsers import checkpoint_parser, parsed, require_suffix, with_sampling
from commands.options.sampler import settings_of

if TYPE_CHECKING:
    from torch import Tensor

    from models.training.capabilities import HasLatents
    from settings.sampling import SamplerSettings


def parser() -> argparse.ArgumentParser:
    parser = checkpoint_parser(
        "latents directions", "Edits a picture along the latent directions that change pictures most, one per row."
    )
    parser.add_argument("--out", required=True, type=Path, help="x.png")
    parser.add_argument(
        "--of", choices=("sefa", "pca"), default="sefa",
        help="sefa: what the first weights amplify most; pca: principal components of styles, as in GANSpace (sefa)",
    )  # fmt: skip
    parser.add_argument("--number", type=int, default=5, help="number of directions (5)")
    parser.add_argument("--layers", help="StyleGAN2: layers to edit: coarse, middle, fine, or such as 0-5 or 3 (all)")
    parser.add_argument("--range", type=float, default=3.0, help="largest move, in standard deviations, either way (3)")
    parser.add_argument("--columns", type=int, default=7, help="pictures per row (7)")
    parser.add_argument("--latent", type=Path, help="latent.npz of `latents project`, to edit in place of a sample")
    parser.add_argument("--index", type=int, default=0, help="index of the sample to edit (0)")
    parser.add_argument("--label", type=int, help="class of the sample; drawn if left out")
    parser.add_argument("--num_samples", type=int, default=10_000, help="latents to estimate deviations from (10000)")
    return with_sampling(parser)


def run(arguments: Sequence[str]) -> int:
    """Draws and writes; prints the file."""
    options = parsed(parser(), arguments, {"number": 1, "columns": 2, "num_samples": 2, "index": 0})
    if not 0 < options.range < float("inf"):
        raise ValueError(f"--range {options.range}: take a number above 0, such as 3")
    require_suffix("out", options.out)

    import torch

    from commands.options.checkpoints import loaded
    from commands.options.drawings import keep_sheet, protocol_of
    from commands.options.latents import decoded, decoder, layers_of, read_projection, with_latents
    from metrics.latent_directions import deviations
    from models.training.capabilities import HasStyles

    model, path = loaded(options)
    latent = with_latents(model, path)
    settings = settings_of(model, options, still_noise=True)
    projection = None if options.latent is None else read_projection(options.latent, model)
    if projection is None:
        named = None if options.label is None else [options.label]
        label = model.sample_labels([options.index], named, seed=options.seed)
    elif options.label is not None:
        raise ValueError("--label: --latent has the class of its projection; leave one of them out")
    else:
        label = torch.tensor([projection.label], device=model.device)

    drawn = latent.draw_latents(range(options.num_samples), seed=options.seed, settings=settings)
    layers: tuple[int, int] | None = None
    if isinstance(latent, HasStyles):
        # Truncation moves the sample, but not the unit in which its edits are measured.
        plain = model.settings_class(weights=options.weights)
        ws = latent.to_w(drawn, label.repeat(len(drawn)), settings=plain)
        layers = layers_of(options.layers, ws.shape[1])
        points = ws[:, 0]
    elif options.layers is not None:
        raise ValueError(f"--layers: {type(model).__name__} has no styles per layer; leave it out")
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
    if layers is not None:
        edited = source.repeat(len(steps), 1, 1)
        edited[:, layers[0] : layers[1] + 1] += steps[:, None]
    else:
        edited = source + steps
    noises = [] if projection is None else projection.noises
    decode = decoder(latent, "z" if layers is None else "w", settings, noises)
    pictures = decoded(decode, edited, label.repeat(len(edited)), options.batch_size)
    own = {
        "of": options.of,
        "eigenvalues": strengths.tolist(),
        "layers": layers,
        "amounts": amounts.tolist(),
        "num_samples": options.num_samples,
        "latent": None if options.latent is None else str(options.latent),
        "index": options.index if projection is None else None,
        "seed": options.seed,
        "label": int(label) if model.label_classes else None,
    }
    keep_sheet(torch.stack(list(pictures)), options.columns, options.out, protocol_of(model, path, settings, own))
    print(options.out)
    return 0


def found(
    latent: "HasLatents",
    points: "Tensor",
    options: argparse.Namespace,
    layers: tuple[int, int] | None,
    settings: "SamplerSettings",
    path: Path,
) -> "tuple[Tensor, Tensor]":
    """Unit directions (number, D) and their eigenvalues, float64 on the CPU.

    Raises ValueError if the space has fewer directions, or the family has none of this kind.
    """
    import torch

    from metrics.latent_directions import factorized, principal
    from models.training.capabilities import HasLatentWeights, HasStyles

    name = type(latent).__name__
    if isinstance(latent, HasStyles):
        if options.of == "pca":
            return principal(points.cpu(), options.number)
        assert layers is not None
        weights = latent.style_weights(settings)[layers[0] : layers[1] + 1]
        if not weights:
            raise ValueError(f"--layers {options.layers}: only to_rgb reads this style; take one below, or --of pca")
        return factorized(torch.cat(weights).cpu(), options.number)
    if options.of == "pca":
        raise ValueError(f"{path}: {name}'s latents have the same deviation in all directions; leave out --of pca")
    if not isinstance(latent, HasLatentWeights):
        raise ValueError(f"{path}: {name}'s latents do not enter through one linear map, which SeFa factorizes")
    return factorized(latent.latent_weights(settings).cpu(), options.number)

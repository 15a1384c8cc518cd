"""`latents path_length`: the perceptual path length of a checkpoint (Karras et al. 2019, 4.1)."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from commands.options.figures import keep_and_print
from commands.options.parsers import add_distance, checkpoint_parser, parsed, with_sampling
from commands.options.sampler import sampled_with, settings_of
from records.figures import Figure

if TYPE_CHECKING:
    from torch import Tensor

    from commands.options.latents import Decode
    from metrics.path_length import PathDistance
    from models.training.base import GenerativeModel
    from models.training.capabilities import HasLatents
    from settings.sampling import SamplerSettings

EPSILON = 1e-4
"""As published."""


def parser() -> argparse.ArgumentParser:
    parser = checkpoint_parser(
        "latents path_length", "Measures how smoothly pictures change with latents: lower is smoother."
    )
    parser.add_argument("--space", choices=("z", "w"), default="z", help="latents, or StyleGAN2's styles (z)")
    parser.add_argument(
        "--sampling", choices=("full", "end"), default="full", help="anywhere between two latents, or at one (full)"
    )
    add_distance(parser)
    parser.add_argument("--num_samples", type=int, default=50_000, help="steps to measure (50000)")
    parser.add_argument("--epsilon", type=float, default=EPSILON, help="length of a step (1e-4)")
    parser.add_argument("--crop", action="store_true", help="compare faces only, as they lie in FFHQ")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return with_sampling(parser, seed="seed of latents and positions between them", batch="steps per batch")


def run(arguments: Sequence[str]) -> int:
    """Measures and prints."""
    options = parsed(parser(), arguments, {"num_samples": 2})
    if not 0 < options.epsilon < 1:
        raise ValueError(f"--epsilon {options.epsilon}: take a number between 0 and 1, such as {EPSILON}")
    if options.noise == "random":
        raise ValueError("--noise random differs between the ends of a step, which would count: take const or none")
    if options.precision != "float32":
        raise ValueError(f"--precision {options.precision} rounds small steps away: leave it at float32")

    from commands.options.checkpoints import loaded, run_folder_of
    from commands.options.distances import distance_of
    from commands.options.latents import with_latents, with_styles
    from metrics.path_length import TRIMMED, trimmed_mean

    model, path = loaded(options)
    latent = with_latents(model, path)
    if options.space == "w":
        with_styles(model, path, "; leave out --space w")
    settings = settings_of(model, options, still_noise=True)
    distance = distance_of(options).to(model.device)
    distances = measured(model, latent, distance, settings, options)
    mean, error, kept = trimmed_mean(distances)
    name = "_".join(part for part in ("ppl", distance.name, options.space, options.sampling) if part)
    protocol = {
        **distance.protocol(),
        "space": options.space,
        "sampling": options.sampling,
        "epsilon": options.epsilon,
        "crop": options.crop,
        "num_samples": options.num_samples,
        "device": model.device.type,
        "trimmed": f"{TRIMMED:g} at either end",
        **sampled_with(model, options.seed, settings),
    }
    figures = {name: Figure(mean, "lower", error, {"spread": "standard error", "kept": kept})}
    keep_and_print(figures, protocol, run_folder_of(path), options)
    return 0


def measured(
    model: "GenerativeModel",
    latent: "HasLatents",
    distance: "PathDistance",
    settings: "SamplerSettings",
    options: argparse.Namespace,
) -> "Tensor":
    """Perceptual distances over squared steps, float64 (num_samples,), with a progress bar.

    Step i goes from the latent of sample 2i towards that of sample 2i + 1, both with the class of sample 2i.
    """
    import torch
    from tqdm import tqdm

    from metrics.interpolation import lerp, slerp
    from metrics.path_length import compared, step_ends

    places = torch.rand(options.num_samples, generator=torch.Generator().manual_seed(options.seed), dtype=torch.float64)
    if options.sampling == "end":
        places = torch.zeros_like(places)
    to_space, decode = ways(latent, options.space, settings)
    between = slerp if options.space == "z" else lerp
    parts = []
    quiet = options.json or not sys.stderr.isatty()
    with tqdm(total=options.num_samples, unit="step", disable=quiet) as bar, torch.no_grad():
        for start in range(0, options.num_samples, options.batch_size):
            steps = range(start, min(start + options.batch_size, options.num_samples))
            firsts = [2 * i for i in steps]
            labels = model.sample_labels(firsts, seed=options.seed).repeat(2)
            indices = firsts + [first + 1 for first in firsts]
            points = to_space(latent.draw_latents(indices, seed=options.seed, settings=settings), labels)
            a, b = points.chunk(2)
            ends = step_ends(a, b, places[steps.start : steps.stop], options.epsilon, between)
            pictures = compared(decode(torch.cat(ends).to(points), labels), options.crop)
            parts.append(distance(*pictures.chunk(2)) / options.epsilon**2)
            bar.update(len(steps))
    return torch.cat(parts)


def ways(latent: "HasLatents", space: str, settings: "SamplerSettings") -> "tuple[Decode, Decode]":
    """Maps from latents to the points of a space, and from there to pictures, not clipped if styles allow that.

    A clipped picture does not change where it is black or white, so its path would be too short.
    """
    from commands.options.latents import decoder
    from models.training.capabilities import HasStyles

    def same(z: "Tensor", labels: "Tensor") -> "Tensor":
        return z

    if not isinstance(latent, HasStyles):
        return same, decoder(latent, "z", settings)
    to_w, from_w = partial(latent.to_w, settings=settings), decoder(latent, "w", settings)
    return (to_w, from_w) if space == "w" else (same, lambda z, labels: from_w(to_w(z, labels), labels))

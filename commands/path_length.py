"""`path_length`: the perceptual path length of a checkpoint, with its protocol (Karras et al. 2019, section 4.1)."""

import argparse
import datetime
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from commands.options.sampler import add_arguments, settings_of

if TYPE_CHECKING:
    from torch import Tensor

    from commands.options.latents import Decode
    from metrics.path_length import PathDistance
    from models.training.base import GenerativeModel, SamplerSettings
    from models.training.capabilities import HasLatents

EPSILON = 1e-4
"""As published."""


def parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    parser = argparse.ArgumentParser(
        prog="python main.py path_length",
        description="Measures how evenly pictures change with latents: lower is smoother.",
    )
    parser.add_argument("--ckpt_path", required=True, help="a checkpoint, or a run's folder for its newest one")
    parser.add_argument("--space", choices=("z", "w"), default="z", help="latents, or StyleGAN2's styles (z)")
    parser.add_argument(
        "--sampling", choices=("full", "end"), default="full", help="anywhere between two latents, or at one (full)"
    )
    parser.add_argument(
        "--distance", choices=("lpips", "effnet"),
        help="LPIPS of VGG16, as published, or EfficientNet's features (lpips if its weights are in torch's cache)",
    )  # fmt: skip
    parser.add_argument("--num_samples", type=int, default=50_000, help="steps to measure (50000)")
    parser.add_argument("--epsilon", type=float, default=EPSILON, help="length of a step (1e-4)")
    parser.add_argument("--crop", action="store_true", help="compare faces alone, where they lie as in FFHQ")
    parser.add_argument("--resolution", type=int, default=64, help="side of EfficientNet's input, in pixels (64)")
    parser.add_argument("--seed", type=int, default=0, help="of latents and of places between them (0)")
    add_arguments(parser)
    parser.add_argument("--batch_size", type=int, default=64, help="steps a pass (64)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (cpu)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Measures and prints."""
    options = parser().parse_args(arguments)
    if options.num_samples < 2 or options.batch_size < 1:
        raise ValueError("--num_samples must be at least 2, --batch_size at least 1")
    if not 0 < options.epsilon < 1:
        raise ValueError(f"--epsilon {options.epsilon}: take a number between 0 and 1, such as {EPSILON}")
    if options.noise == "random":
        raise ValueError(
            "--noise random differs between the ends of a step, which would measure it: take const or none"
        )
    if options.precision != "float32":
        raise ValueError(f"--precision {options.precision} rounds away what a step changes: leave it at float32")

    # Imported after the arguments are known to be right: --help and typing errors answer at once.
    import torch

    from commands.evaluate import as_plain, keep, table_lines
    from commands.options.checkpoints import checkpoint_at, run_folder_of, usable_device
    from commands.options.latents import with_latents, with_styles
    from media.files import without_nonfinite
    from metrics.evaluation import Figure
    from metrics.path_length import TRIMMED, trimmed_mean
    from models import load

    device = usable_device(options.device)
    path = checkpoint_at(options.ckpt_path)
    model = load(path, device)
    latent = with_latents(model, path)
    if options.space == "w":
        with_styles(model, path, "; leave out --space w")
    settings = settings_of(model, options, still_noise=True)
    distance = distance_of(options).to(torch.device(device))
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
        "trimmed": f"{TRIMMED:g} at either end",
        "model": type(model).__name__,
        "samples_seen": model.samples_seen,
        "seed": options.seed,
        "sampler": dict(vars(settings)),
    }
    figure = Figure(mean, "lower", error, {"spread": "standard error", "kept": kept})
    result: dict[str, Any] = {
        "figures": {name: as_plain(figure, protocol)},
        "measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    run_folder = run_folder_of(path)
    if run_folder is not None:
        keep(result, run_folder)
    if options.json:
        print(json.dumps(without_nonfinite(result), indent=2))
    else:
        print("\n".join([f"{name}  {mean:.6g} ± {error:.3g}  lower is better", "", *table_lines(protocol)]))
    return 0


def distance_of(options: argparse.Namespace) -> "PathDistance":
    """The distance that was asked for, or LPIPS where its weights are at hand and EfficientNet's where not."""
    from features.efficientnet import EfficientNetFeatures
    from features.lpips import LPIPSDistance, weights_place
    from metrics.path_length import EfficientNetDistance

    if options.distance == "lpips" or (options.distance is None and weights_place("vgg").is_file()):
        return LPIPSDistance()
    return EfficientNetDistance(EfficientNetFeatures(options.resolution))


def measured(
    model: "GenerativeModel",
    latent: "HasLatents",
    distance: "PathDistance",
    settings: "SamplerSettings",
    options: argparse.Namespace,
) -> "Tensor":
    """Perceptual distances over squared steps, float64 (num_samples,), with a progress bar.

    Step i goes from the latent of sample 2i towards that of sample 2i + 1, both with the class of the first.
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
    """From latents to the points of a space, and from there to pictures; not cut off at -1 and 1 where styles allow.

    A picture that is cut off does not change where it is white or black, and its path would come out too short.
    """
    from models.training.capabilities import HasStyles

    if not isinstance(latent, HasStyles):
        return lambda z, labels: z, lambda z, labels: latent.decode(z, labels, settings=settings)
    styled = latent

    def to_w(z: "Tensor", labels: "Tensor") -> "Tensor":
        return styled.to_w(z, labels, settings=settings)

    if space == "w":
        return to_w, lambda w, labels: styled.from_w(w, settings=settings)
    return lambda z, labels: z, lambda z, labels: styled.from_w(to_w(z, labels), settings=settings)

"""`latents project`: the latent whose picture is closest to a given one (Karras et al. 2020, section 5, appendix D)."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from commands.options.parsers import add_distance, checkpoint_parser, parsed, with_sampling
from commands.options.sampler import settings_of

if TYPE_CHECKING:
    from torch import Tensor

    from models.training.base import GenerativeModel
    from models.training.capabilities import HasLatents
    from settings.sampling import SamplerSettings

Draw: TypeAlias = "Callable[[Tensor, Sequence[Tensor]], Tensor]"
"""(latent, noises) to a picture (1, C, H, W), differentiable in both."""
Far: TypeAlias = "Callable[[Tensor], Tensor]"
"""Pictures (N, C, H, W) to distances from the target, float64 (N,)."""

NOISE_WEIGHT = 1e5
"""Weight of the noise regularization, as published."""
FRAMES = 100
"""Most frames of the animation."""


def parser() -> argparse.ArgumentParser:
    parser = checkpoint_parser(
        "latents project",
        "Finds the latent whose picture is closest to a given one: w of StyleGAN2, z of other models.",
    )
    parser.add_argument("--target", required=True, type=Path, help="a picture; its centre is cropped and resized")
    parser.add_argument(
        "--out", required=True, type=Path, help="a folder for target.png, projected.png, projection.gif, latent.npz"
    )
    parser.add_argument("--space", choices=("w", "w+"), help="StyleGAN2: one style for all layers, or one for each (w)")
    parser.add_argument("--steps", type=int, default=1000, help="steps of Adam (1000)")
    parser.add_argument("--lr", type=float, default=0.1, help="highest learning rate (0.1)")
    parser.add_argument("--noise_weight", type=float, default=NOISE_WEIGHT, help="of the noise regularization (1e5)")
    add_distance(parser)
    parser.add_argument("--average_of", type=int, default=10_000, help="latents averaged for the start (10000)")
    parser.add_argument("--label", type=int, help="class for a conditional model (0)")
    return with_sampling(parser, seed="seed of the start and the noise", batch=None)


@dataclass
class Start:
    """The start of a projection."""

    latent: "Tensor"
    """(1, 1, w_dim) or (1, layers, w_dim) for styles, otherwise (1, latent_dim); optimized."""
    layers: int
    """Layers with styles; 0 for latents."""
    noises: "list[Tensor]"
    """(1, 1, side, side) for each layer, optimized too; empty if there are none."""
    spread: float
    """Deviation of latents from their average."""


def run(arguments: Sequence[str]) -> int:
    """Projects and writes; prints the folder."""
    options = parsed(parser(), arguments, {"steps": 1, "average_of": 2})
    check(options)

    import torch
    from tqdm import tqdm

    from commands.options.checkpoints import loaded
    from commands.options.distances import distance_of
    from commands.options.drawings import protocol_of
    from commands.options.latents import save_projection, with_latents, with_styles
    from media.animations import save_gif
    from media.pictures import from_levels, grid, save_png, to_uint8
    from metrics.path_length import compared

    model, path = loaded(options)
    latent = with_latents(model, path)
    if options.space is not None:
        with_styles(model, path, "; leave out --space")
    settings = settings_of(model, options, still_noise=True)
    label = model.sample_labels([0], [options.label or 0] if model.label_classes or options.label else None)
    target = target_of(options.target, model)
    distance = distance_of(options).to(model.device)

    wanted = from_levels(target.to(model.device)[None])

    def far(pictures: "Tensor") -> "Tensor":
        return distance(compared(pictures, False), compared(wanted.expand(len(pictures), -1, -1, -1), False))

    start = started(model, latent, label, settings, options, far)
    draw = drawing(latent, start, label, settings)
    with torch.no_grad():
        first = float(far(draw(start.latent, start.noises)))
    frames: list[Tensor] = []
    every = max(1, options.steps // FRAMES)
    scale = 1.0 if distance.name == "" else 1 / max(first, 1e-12)
    with tqdm(total=options.steps, unit="step", disable=not sys.stderr.isatty()) as bar:
        for step, picture, value in descent(start, draw, far, scale, options):
            if step % every == 0:
                frames.append(torch.cat([target[None], to_uint8(picture).cpu()]))
            bar.set_postfix(distance=f"{value:.4g}", refresh=False)
            bar.update()

    result = start.latent.detach()
    noises = [noise.detach() for noise in start.noises]
    with torch.no_grad():
        last = float(far(picture := draw(result, noises)))
    (projected,) = to_uint8(picture).cpu()
    frames.append(torch.stack([target, projected]))

    own = {
        "target": options.target.name,
        "space": (options.space or "w") if start.layers else "z",
        "label": int(label) if model.label_classes else None,
        "steps": options.steps,
        "lr": options.lr,
        "noise_weight": options.noise_weight if noises else None,
        "average_of": options.average_of,
        "seed": options.seed,
        **distance.protocol(),
        "distance_first": first,
        "distance_last": last,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    save_png(target, options.out / "target.png")
    save_png(projected, options.out / "projected.png")
    save_gif((grid(frame, 2) for frame in frames), options.out / "projection.gif", fps=20)
    points = result.expand(-1, start.layers, -1) if start.layers else result
    save_projection(options.out / "latent.npz", points, noises, int(label), protocol_of(model, path, settings, own))
    print(f"{options.out}: distance {first:.6g} at the start, {last:.6g} at the end")
    return 0


def check(options: argparse.Namespace) -> None:
    """Raises ValueError, in one line, for options that are wrong for every model."""
    if not 0 < options.lr < float("inf") or not 0 <= options.noise_weight < float("inf"):
        raise ValueError("--lr must be a number above 0, --noise_weight 0 or above")
    if options.noise == "random":
        raise ValueError("--noise random: a projection finds the noise itself; leave it out, or take none")
    if options.precision != "float32":
        raise ValueError(f"--precision {options.precision} rounds small steps away: leave it at float32")
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out {options.out} is a file: name a folder")
    if not options.target.is_file():
        raise FileNotFoundError(f"--target {options.target}: no such file")


def target_of(path: Path, model: "GenerativeModel") -> "Tensor":
    """The picture in a file, its centre cropped and resized to the model's, uint8 (C, side, side)."""
    import torch

    from datamodules.image_folder import Decoder

    channels, height, width = model.data_shape
    if height != width:
        raise ValueError(f"{path}: the model's pictures are {height}x{width}, and a projection needs squares")
    pixels = Decoder(height, None, 3 if channels == 3 else 1)(path)
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def started(
    model: "GenerativeModel",
    latent: "HasLatents",
    label: "Tensor",
    settings: "SamplerSettings",
    options: argparse.Namespace,
    far: Far,
) -> Start:
    """The average style with random noise, or the nearest of 64 latents for models without styles.

    The average latent z = 0 is never drawn, and its picture is not typical.
    """
    import torch

    from metrics.projection import spread_of
    from models.training.capabilities import HasStyles

    generator = torch.Generator().manual_seed(options.seed)
    if not isinstance(latent, HasStyles):
        z = latent.draw_latents(range(64), seed=options.seed, settings=settings)
        with torch.no_grad():
            nearest = int(far(latent.decode(z, label.repeat(64), settings=settings)).argmin())
        return Start(z[nearest : nearest + 1].clone(), 0, [], spread_of(z)[1])
    drawn = latent.draw_latents(range(options.average_of), seed=options.seed, settings=settings)
    with torch.no_grad():
        ws = latent.to_w(drawn, label.repeat(len(drawn)), settings=settings)
    mean, spread = spread_of(ws[:, 0])
    layers = ws.shape[1]
    point = mean.repeat(1, layers if options.space == "w+" else 1, 1)
    if getattr(settings, "noise", "none") == "none":
        return Start(point, layers, [], spread)
    noises = [torch.randn(1, 1, side, side, generator=generator).to(point) for side in latent.noise_sides]
    return Start(point, layers, noises, spread)


def drawing(latent: "HasLatents", start: Start, label: "Tensor", settings: "SamplerSettings") -> Draw:
    """The function that draws a picture of the start, or of where the optimization moved it."""
    from models.training.capabilities import HasStyles

    def draw(point: "Tensor", noises: "Sequence[Tensor]") -> "Tensor":
        if isinstance(latent, HasStyles):
            return latent.from_w(point.expand(-1, start.layers, -1), noise=noises or None, settings=settings)
        return latent.decode_with_graph(point, label, settings=settings)

    return draw


def descent(
    start: Start, draw: Draw, far: Far, scale: float, options: argparse.Namespace
) -> "Iterator[tuple[int, Tensor, float]]":
    """Optimizes the start's latent and noises in place; yields (step, picture (1, C, H, W), its distance).

    `scale` multiplies distances. It is 1 for LPIPS, which the published weight of noise regularization assumes; other
    distances are scaled to 1 at the start.
    """
    import math

    import torch

    from metrics.projection import latent_noise, learning_rate_factor, noise_regularization, renormalize

    moved = [start.latent, *start.noises]
    for each in moved:
        each.requires_grad_(True)
    optimizer = torch.optim.Adam(moved, lr=options.lr)
    generator = torch.Generator().manual_seed(options.seed + 1)
    for step in range(options.steps):
        t = step / options.steps
        for group in optimizer.param_groups:
            group["lr"] = options.lr * learning_rate_factor(t)
        added = torch.randn(start.latent.shape, generator=generator).to(start.latent)
        picture = draw(start.latent + added * latent_noise(t, start.spread), start.noises)
        distance = far(picture).sum()
        loss = distance * scale
        if start.noises and options.noise_weight:
            loss = loss + options.noise_weight * noise_regularization(start.noises).to(loss)
        value = float(distance.detach())
        if not math.isfinite(value):
            raise ValueError(f"step {step}: the distance is {value}; lower --lr, or look at the checkpoint's samples")
        for each, gradient in zip(moved, torch.autograd.grad(loss, moved), strict=True):
            each.grad = gradient
        optimizer.step()
        renormalize(start.noises)
        yield step, picture.detach(), value

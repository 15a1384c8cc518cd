"""The sampler's settings as arguments: the same for every verb that draws from a checkpoint."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.training.base import GenerativeModel, SamplerSettings

SWEPT = ("truncation", "truncation_psi", "temperature", "guidance", "sampler_steps")
"""Settings that `add_arguments` can take several values of."""

SETTINGS = {
    **{name: name for name in ("truncation", "standing_statistics", "truncation_psi", "truncation_cutoff", "noise")},
    **{name: name for name in ("temperature", "guidance", "solver", "top_k", "top_p")},
    "sampler_steps": "steps",
}
"""Options by which the fields of the families' settings are named: `--steps` of `interpolate` means others."""


def add_arguments(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Adds the settings of every family; `settings_of` refuses what a model does not have.

    Args:
        parser: the verb's.
        several: whether those of `SWEPT` may be given several values; `sweep_of` then parts them.
    """
    count, more = ("+", "; several for a sweep") if several else (None, "")
    parser.add_argument(
        "--truncation", type=float, nargs=count, help=f"redraw latents beyond this{more}; off where left out"
    )
    parser.add_argument(
        "--standing_statistics",
        type=int,
        help="batches that batch-norm statistics are re-estimated from; as trained where left out",
    )
    parser.add_argument(
        "--truncation_psi", type=float, nargs=count,
        help=f"StyleGAN2: towards the average style{more}; 1 where left out",
    )  # fmt: skip
    parser.add_argument("--truncation_cutoff", type=int, help="StyleGAN2: layers truncated, from 4 px; all if left out")
    parser.add_argument("--noise", choices=("random", "const", "none"), help="StyleGAN2: of its layers")
    parser.add_argument(
        "--temperature", type=float, nargs=count,
        help=f"VAE, flows, autoregressive: scale of the noise, or sharpness of each choice{more}; 1 where left out",
    )  # fmt: skip
    parser.add_argument("--top_k", type=int, help="autoregressive: among the k likeliest values only")
    parser.add_argument("--top_p", type=float, help="autoregressive: among the likeliest values that share p only")
    parser.add_argument("--sampler_steps", type=int, nargs=count, help=f"flow matching: of the ODE{more}")
    parser.add_argument("--solver", help="flow matching: euler or heun")
    parser.add_argument(
        "--guidance", type=float, nargs=count, help=f"flow matching: towards the label, 1 for none{more}"
    )
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema", help="averaged or last weights (ema)")
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16", "float16"), default="float32", help="of sampling (float32)"
    )


def settings_of(model: "GenerativeModel", options: argparse.Namespace, still_noise: bool = False) -> "SamplerSettings":
    """The model's settings with what the options name.

    Args:
        model: whose settings.
        options: of a parser with `add_arguments`.
        still_noise: where the options name no noise, and the family has one, take what is the same for all samples.
            Random noise is a function of the latent: between neighbouring latents, and between mixed styles, it would
            jump where everything else moves smoothly.

    Raises:
        ValueError: for an option that this family does not have.
    """
    named: dict[str, Any] = {"weights": options.weights, "precision": options.precision}
    known = {field.name for field in dataclasses.fields(model.settings_class)}
    for option, name in SETTINGS.items():
        if (value := getattr(options, option)) is not None:
            if name not in known:
                raise ValueError(f"{type(model).__name__} has no {option}")
            named[name] = value
    if still_noise and "noise" in known:
        named.setdefault("noise", "const")
    settled: SamplerSettings = model.settled(model.settings_class(**named))
    return settled


def sweep_of(options: argparse.Namespace) -> tuple[str | None, list[argparse.Namespace]]:
    """The option that has several values, and the options with each of them in turn; None and one where none has.

    Raises:
        ValueError: several options have several values.
    """
    given = {name: values for name in SWEPT if (values := getattr(options, name)) is not None}
    several = [name for name, values in given.items() if len(values) > 1]
    if len(several) > 1:
        raise ValueError(f"--{' and --'.join(several)}: only one of them may have several values")
    rest = {**vars(options), **{name: values[0] for name, values in given.items()}}
    if not several:
        return None, [argparse.Namespace(**rest)]
    (swept,) = several
    return swept, [argparse.Namespace(**{**rest, swept: value}) for value in given[swept]]


def in_turn(labels: Sequence[int] | None, count: int) -> list[int] | None:
    """`count` labels, those given being used in turn; None for none."""
    return [labels[i % len(labels)] for i in range(count)] if labels else None


def keep_protocol(out: Path, protocol: dict[str, Any]) -> None:
    """Writes how a picture or an animation came about beside it, as <its name>.json."""
    from media.files import write_json_whole

    write_json_whole(out.with_name(f"{out.name}.json"), protocol)

"""The sampler's settings as arguments: the same for every verb that draws from a checkpoint."""

import argparse
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.training.base import GenerativeModel, SamplerSettings

SWEPT = ("truncation", "truncation_psi", "temperature", "guidance", "sampler_steps")
"""Settings that `add_arguments` can take several values of."""

SETTINGS: dict[str, tuple[Callable[[str], int | float | str], str]] = {
    "truncation": (float, "redraw latents beyond this; off where left out"),
    "standing_statistics": (int, "batches that batch-norm statistics are re-estimated from; as trained where left out"),
    "truncation_psi": (float, "StyleGAN2: towards the average style; 1 where left out"),
    "truncation_cutoff": (int, "StyleGAN2: layers truncated, from 4 px; all if left out"),
    "noise": (str, "StyleGAN2: of its layers"),
    "temperature": (float, "VAE, flows, autoregressive: scale of the noise, sharpness of choices; 1 where left out"),
    "top_k": (int, "autoregressive: among the k likeliest values only"),
    "top_p": (float, "autoregressive: among the likeliest values that share p only"),
    "sampler_steps": (int, "flow matching: of the ODE"),
    "solver": (str, "flow matching: euler or heun"),
    "guidance": (float, "flow matching: towards the label, 1 for none"),
}
"""Options of the families' settings: what they take and how help describes them."""

FIELDS = {"sampler_steps": "steps"}
"""Options that are not called as the setting is: `--steps` of `latents walk` means others."""


def add_settings(parser: argparse.ArgumentParser, names: Iterable[str] = SETTINGS, several: bool = False) -> None:
    """Adds options of `SETTINGS`; `settings_of` refuses what a model does not have.

    Args:
        parser: the verb's.
        names: which of them.
        several: whether those of `SWEPT` may be given several values; `sweep_of` then parts them.
    """
    for name in names:
        kind, text = SETTINGS[name]
        count, more = ("+", "; several for a sweep") if several and name in SWEPT else (None, "")
        choices = ("random", "const", "none") if name == "noise" else None
        parser.add_argument(f"--{name}", type=kind, nargs=count, choices=choices, help=text + more)


def add_arguments(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Adds the settings of every family, `several` as `add_settings` has it, and what all families have in common."""
    add_settings(parser, several=several)
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
    for option in SETTINGS:
        name = FIELDS.get(option, option)
        if (value := vars(options).get(option)) is not None:
            if name not in known:
                raise ValueError(f"{type(model).__name__} has no {option}")
            named[name] = value
    if still_noise and "noise" in known:
        named.setdefault("noise", "const")
    settled: SamplerSettings = model.settled(model.settings_class(**named))
    return settled


def sampled_with(model: "GenerativeModel", seed: int, settings: "SamplerSettings") -> dict[str, Any]:
    """A protocol's part on samples that were measured: whose they are, and how they were drawn."""
    facts = {"model": type(model).__name__, "samples_seen": model.samples_seen}
    return {**facts, "seed": seed, "sampler": dict(vars(settings))}


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

"""The settings of samplers as options, the same for every verb that draws from a checkpoint.

Settings of `settings/sampling.py` are known at once. Those of a model whose settings class lies elsewhere are known
once the model is loaded.
"""

import argparse
import re
from collections.abc import Iterable, Sequence
from dataclasses import MISSING
from typing import TYPE_CHECKING, Any

from settings.fields import Setting, settings_in
from settings.sampling import SamplerSettings, offered

if TYPE_CHECKING:
    from models.training.base import GenerativeModel


def add_settings(
    parser: argparse.ArgumentParser, settings: Iterable[Setting], prefix: str = "", several: bool = False
) -> None:
    """Adds an option for each setting name, None if left out, with the help of all settings of the name.

    `prefix` is put before names. If `several`, settings that can be swept accept several values, for `sweep_of`.
    Settings that a model lacks are refused when options are read.
    """
    named: dict[str, list[Setting]] = {}
    for setting in settings:
        named.setdefault(setting.name, []).append(setting)
    for name, found in named.items():
        option, text = f"--{prefix}{name}", "; ".join(dict.fromkeys(map(_meaning, found))).replace("%", "%%")
        kind, choices, swept = found[0].kind, found[0].choices, several and any(each.swept for each in found)
        if kind is bool:
            parser.add_argument(option, action=argparse.BooleanOptionalAction, help=text)
        elif swept:
            parser.add_argument(option, type=kind, choices=choices, nargs="+", help=f"{text}; several for a sweep")
        else:
            parser.add_argument(option, type=kind, choices=choices, help=text)


def _meaning(setting: Setting) -> str:
    """The help of a setting: its family, unless all have it, and its default."""
    of_all = setting.owner.__base__ is object
    whose = "" if of_all else f"{re.sub('(Settings|Likelihood)$', '', setting.owner.__name__)}: "
    default = "" if setting.default in (None, MISSING) else f" ({setting.default})"
    return f"{whose}{setting.help}{default}"


def add_arguments(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Adds the settings of every family. Those that all families share have a default."""
    add_settings(parser, offered(), several=several)
    parser.set_defaults(several=several, **{each.name: each.default for each in settings_in(SamplerSettings)})


def settings_of(model: "GenerativeModel", options: argparse.Namespace, still_noise: bool = False) -> SamplerSettings:
    """The model's settings, with those that the options name.

    If `still_noise`, the noise defaults to the same for all samples, in families that have noise. Random noise is a
    function of the latent: it would jump between neighbouring latents, where everything else changes smoothly.

    Raises ValueError if the family lacks an option, or a value is not allowed.
    """
    named = _named(model, options)
    if still_noise and any(setting.name == "noise" for setting in settings_in(model.settings_class)):
        named.setdefault("noise", "const")
    return _settled(model, named)


def sweep_of(model: "GenerativeModel", options: argparse.Namespace) -> tuple[str | None, list[SamplerSettings]]:
    """The setting with several values, and the model's settings for each; None and one if there is no such setting.

    Raises ValueError if two settings have several values; or as `settings_of`.
    """
    named = _named(model, options)
    lists = {name: values for name, values in named.items() if isinstance(values, list)}
    several = [name for name, values in lists.items() if len(values) > 1]
    if len(several) > 1:
        raise ValueError(f"--{' and --'.join(several)}: only one of them can have several values")
    first = {**named, **{name: values[0] for name, values in lists.items()}}
    if not several:
        return None, [_settled(model, first)]
    (swept,) = several
    return swept, [_settled(model, {**first, swept: value}) for value in lists[swept]]


def refuse_settings(options: argparse.Namespace) -> None:
    """Raises ValueError, in one line, if settings are given without a model to draw from."""
    of_all = {setting.name for setting in settings_in(SamplerSettings)}
    given = [f"--{each.name}" for each in offered() if each.name not in of_all and vars(options)[each.name] is not None]
    if given or options.unknown:
        raise ValueError(f"{[*given, *options.unknown][0]} needs --ckpt_path: finished samples are not drawn")


def _named(model: "GenerativeModel", options: argparse.Namespace) -> dict[str, Any]:
    """The settings that options name; lists for those that can be swept, if the verb accepts several values."""
    of_families = {setting.name for setting in offered()}
    own = {setting.name: setting for setting in settings_in(model.settings_class)}
    late = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    add_settings(
        late, [own[name] for name in own if name not in of_families], several=vars(options).get("several", False)
    )
    try:
        theirs, unknown = late.parse_known_args(options.unknown)
    except argparse.ArgumentError as error:
        raise ValueError(error) from error
    if unknown:
        raise ValueError(f"unrecognized arguments: {' '.join(unknown)}")
    ours = {name: value for name, value in vars(options).items() if name in of_families}
    named = {name: value for name, value in {**ours, **vars(theirs)}.items() if value is not None}
    if foreign := [name for name in named if name not in own]:
        raise ValueError(f"{type(model).__name__} has no {foreign[0]}")
    return named


def _settled(model: "GenerativeModel", named: dict[str, Any]) -> SamplerSettings:
    settled: SamplerSettings = model.settled(model.settings_class(**named))
    return settled


def sampled_with(model: "GenerativeModel", seed: int, settings: SamplerSettings) -> dict[str, Any]:
    """The part of a protocol that describes measured samples: the model, and how they were drawn."""
    facts = {"model": type(model).__name__, "samples_seen": model.samples_seen}
    return {**facts, "seed": seed, "sampler": dict(vars(settings))}


def in_turn(labels: Sequence[int] | None, count: int) -> list[int] | None:
    """`count` labels, cycling through those given; None if none are."""
    return [labels[i % len(labels)] for i in range(count)] if labels else None

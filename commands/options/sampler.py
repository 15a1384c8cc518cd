"""The sampler's settings as options: the same for every verb that draws from a checkpoint.

They are those of `settings/sampling.py`. Those that only the checkpoint's model has, whose class lies elsewhere, are
read once it is loaded.
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
    """Adds an option for each name among the settings, None where it is left out; help joins what they say of it.

    Args:
        parser: the verb's.
        settings: those of one or of several classes; whoever reads the options refuses what a model does not have.
        prefix: of the options' names.
        several: whether those that may be swept take several values; `sweep_of` then parts them.
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
    """What help says of a setting: whose it is, where not of all, and its default."""
    of_all = setting.owner.__base__ is object
    whose = "" if of_all else f"{re.sub('(Settings|Likelihood)$', '', setting.owner.__name__)}: "
    default = "" if setting.default in (None, MISSING) else f" ({setting.default})"
    return f"{whose}{setting.help}{default}"


def add_arguments(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Adds the settings of every family, `several` as `add_settings` has it; those of all families have a default."""
    add_settings(parser, offered(), several=several)
    parser.set_defaults(several=several, **{each.name: each.default for each in settings_in(SamplerSettings)})


def parsed(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a verb that draws; what its parser does not know waits for the model, as `unknown`."""
    options, unknown = parser.parse_known_args(arguments)
    options.unknown = unknown
    return options


def settings_of(model: "GenerativeModel", options: argparse.Namespace, still_noise: bool = False) -> SamplerSettings:
    """The model's settings with what the options name.

    Args:
        model: whose settings.
        options: of `parsed`.
        still_noise: where the options name no noise, and the family has one, take what is the same for all samples.
            Random noise is a function of the latent: between neighbouring latents, and between mixed styles, it would
            jump where everything else moves smoothly.

    Raises:
        ValueError: for an option that this family does not have, or a value that it does not take.
    """
    named = _named(model, options)
    if still_noise and any(setting.name == "noise" for setting in settings_in(model.settings_class)):
        named.setdefault("noise", "const")
    return _settled(model, named)


def sweep_of(model: "GenerativeModel", options: argparse.Namespace) -> tuple[str | None, list[SamplerSettings]]:
    """The setting that has several values, and the model's settings with each in turn; None and one where none has.

    Raises:
        ValueError: several have several values; or as `settings_of`.
    """
    named = _named(model, options)
    lists = {name: values for name, values in named.items() if isinstance(values, list)}
    several = [name for name, values in lists.items() if len(values) > 1]
    if len(several) > 1:
        raise ValueError(f"--{' and --'.join(several)}: only one of them may have several values")
    first = {**named, **{name: values[0] for name, values in lists.items()}}
    if not several:
        return None, [_settled(model, first)]
    (swept,) = several
    return swept, [_settled(model, {**first, swept: value}) for value in lists[swept]]


def refuse_settings(options: argparse.Namespace) -> None:
    """Raises ValueError, in one line, for settings where there is no model that could have them."""
    of_all = {setting.name for setting in settings_in(SamplerSettings)}
    given = [f"--{each.name}" for each in offered() if each.name not in of_all and vars(options)[each.name] is not None]
    if given or options.unknown:
        raise ValueError(f"{[*given, *options.unknown][0]} needs --ckpt_path: finished samples are not drawn")


def _named(model: "GenerativeModel", options: argparse.Namespace) -> dict[str, Any]:
    """The settings that options name; of those that may be swept, lists of values where the verb takes several."""
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
    """A protocol's part on samples that were measured: whose they are, and how they were drawn."""
    facts = {"model": type(model).__name__, "samples_seen": model.samples_seen}
    return {**facts, "seed": seed, "sampler": dict(vars(settings))}


def in_turn(labels: Sequence[int] | None, count: int) -> list[int] | None:
    """`count` labels, those given being used in turn; None for none."""
    return [labels[i % len(labels)] for i in range(count)] if labels else None

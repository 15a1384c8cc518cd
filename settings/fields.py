"""Fields of settings: each declares its default, help, limits and use in one place."""

import dataclasses
import inspect
import math
import types
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def setting(
    default: Any,  # noqa: ANN401 - of the field's type, as in `dataclasses.field`
    help: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    neutral: Any = MISSING,  # noqa: ANN401 - likewise
    swept: bool = False,
) -> Any:  # noqa: ANN401 - likewise
    """A field of a settings dataclass.

    Args:
        default: the default value.
        help: the meaning, for `--help`, which adds the default.
        least: the smallest value allowed.
        above: an exclusive lower limit, in place of `least`.
        most: the largest value allowed.
        neutral: the value that does not trade diversity for quality, for a setting that can. A family without the
            setting is compared at this value, and figures at another value are not comparable.
        swept: whether verbs that make a row for each value accept several values.
    """
    metadata = {"help": help, "least": least, "above": above, "most": most, "neutral": neutral, "swept": swept}
    return dataclasses.field(default=default, metadata=metadata)


def check(settings: Any) -> None:  # noqa: ANN401 - any dataclass
    """Raises ValueError, naming the setting, if a value does not fit its type or limits. None is always allowed."""
    for field in dataclasses.fields(settings):
        name, value = field.name, getattr(settings, field.name)
        if value is None:
            continue
        for kind in _alternatives(field.type):
            if get_origin(kind) is Literal:
                check_choice(name, value, kind)
        least, above, most = (field.metadata.get(limit) for limit in ("least", "above", "most"))
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, not {value}")
        if least is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
        if above is not None and value <= above:
            raise ValueError(f"{name} must be above {above}, not {value}")
        if most is not None and value > most:
            raise ValueError(f"{name} must be at most {most}, not {value}")


def documented(owner: type[T]) -> type[T]:
    """Adds each field and its help to a dataclass's docstring, where `--help` of config keys reads them."""
    lines = [f"    {field.name}: {field.metadata['help']}" for field in dataclasses.fields(owner)]  # type: ignore[arg-type]
    owner.__doc__ = "\n".join([f"{owner.__doc__}\n\nArgs:", *lines])
    return owner


@dataclass(frozen=True)
class Setting:
    """One field of a settings class, as the command line offers it."""

    owner: type
    """The class that declares it."""
    name: str
    kind: type
    """bool, int, float or str."""
    choices: tuple[str, ...] | None
    default: Any
    help: str
    swept: bool


def settings_in(owner: type) -> list[Setting]:
    """The fields of a dataclass, in order. Raises TypeError if the command line cannot accept a field's type."""
    hints, found = get_type_hints(owner), []
    for field in dataclasses.fields(owner):
        declares = next(base for base in owner.__mro__ if field.name in inspect.get_annotations(base))
        kind, choices = _kind_and_choices(hints[field.name], f"{owner.__name__}.{field.name}")
        meaning, swept = field.metadata.get("help", ""), field.metadata.get("swept", False)
        found.append(Setting(declares, field.name, kind, choices, field.default, meaning, swept))
    return found


def neutral_values(owners: Sequence[type]) -> dict[str, Any]:
    """The neutral values that these classes declare, by setting name."""
    fields = (field for owner in owners for field in dataclasses.fields(owner))
    found = ((field.name, field.metadata.get("neutral", MISSING)) for field in fields)
    return {name: value for name, value in found if value is not MISSING}


def check_choice(name: str, value: object, kind: object) -> None:
    """Raises ValueError, naming the setting, if `value` is not one of the choices of the `Literal` type `kind`."""
    choices = get_args(kind)
    if value not in choices:
        listed = f"{', '.join(map(str, choices[:-1]))} or {choices[-1]}"
        raise ValueError(f"{name} must be {listed}, not {value!r}")


def _alternatives(hint: object) -> Iterator[Any]:
    """The types of a union, or the type itself if it is not one."""
    yield from get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _kind_and_choices(hint: object, where: str) -> tuple[type, tuple[str, ...] | None]:
    kinds = [kind for kind in _alternatives(hint) if kind is not type(None)]
    if len(kinds) == 1 and get_origin(kinds[0]) is Literal:
        return str, get_args(kinds[0])
    if len(kinds) == 1 and kinds[0] in (bool, int, float, str):
        return kinds[0], None
    raise TypeError(f"{where}: a setting is a bool, int, float, str or Literal, or None, and not {hint}")

"""Fields of settings: a default, its meaning, and how it may be used, declared in one place and read by all."""

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
    """A field of a dataclass of settings.

    Args:
        default: its value where nothing is said.
        help: what it means, for `--help`; the default is added there.
        least: the least value that it may have.
        above: or what it must be greater than.
        most: the greatest value that it may have.
        neutral: of a setting that trades modes for clean samples, the value that trades nothing. A family without the
            setting is compared as one that has it at this value, and figures at another value are not comparable.
        swept: whether verbs that take one value for each row of a table or a sheet take several of it.
    """
    metadata = {"help": help, "least": least, "above": above, "most": most, "neutral": neutral, "swept": swept}
    return dataclasses.field(default=default, metadata=metadata)


def check(settings: Any) -> None:  # noqa: ANN401 - any dataclass
    """Raises ValueError, naming the setting, for a value that its type or its limits rule out; None always may be."""
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
    """A dataclass whose docstring lists its fields with their help: `--help` of a config's keys reads it there."""
    lines = [f"    {field.name}: {field.metadata['help']}" for field in dataclasses.fields(owner)]  # type: ignore[arg-type]
    owner.__doc__ = "\n".join([f"{owner.__doc__}\n\nArgs:", *lines])
    return owner


@dataclass(frozen=True)
class Setting:
    """One field of a class of settings, as a command line offers it."""

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
    """The fields of a dataclass, in their order.

    Raises:
        TypeError: if a field is of a type that a command line cannot take.
    """
    hints, found = get_type_hints(owner), []
    for field in dataclasses.fields(owner):
        declares = next(base for base in owner.__mro__ if field.name in inspect.get_annotations(base))
        kind, choices = _kind_and_choices(hints[field.name], f"{owner.__name__}.{field.name}")
        meaning, swept = field.metadata.get("help", ""), field.metadata.get("swept", False)
        found.append(Setting(declares, field.name, kind, choices, field.default, meaning, swept))
    return found


def neutral_values(owners: Sequence[type]) -> dict[str, Any]:
    """By name, the neutral values that these classes declare."""
    fields = (field for owner in owners for field in dataclasses.fields(owner))
    found = ((field.name, field.metadata.get("neutral", MISSING)) for field in fields)
    return {name: value for name, value in found if value is not MISSING}


def check_choice(name: str, value: object, kind: object) -> None:
    """Raises ValueError, naming the setting, for a value that is not among those of a `Literal`."""
    choices = get_args(kind)
    if value not in choices:
        listed = f"{', '.join(map(str, choices[:-1]))} or {choices[-1]}"
        raise ValueError(f"{name} must be {listed}, not {value!r}")


def _alternatives(hint: object) -> Iterator[Any]:
    """The types of a union; the type itself where it is none."""
    yield from get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _kind_and_choices(hint: object, where: str) -> tuple[type, tuple[str, ...] | None]:
    kinds = [kind for kind in _alternatives(hint) if kind is not type(None)]
    if len(kinds) == 1 and get_origin(kinds[0]) is Literal:
        return str, get_args(kinds[0])
    if len(kinds) == 1 and kinds[0] in (bool, int, float, str):
        return kinds[0], None
    raise TypeError(f"{where}: a setting is a bool, int, float, str or Literal, or None, and not {hint}")

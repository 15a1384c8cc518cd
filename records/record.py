"""Records: dataclasses written as JSON, and read and checked from files of any version."""

import dataclasses
import functools
import json
import re
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from media.files import write_json_whole

_T = TypeVar("_T")


class Record:
    """Base class of everything kept as JSON. A subclass is a dataclass whose fields are plain values or records."""

    def to_json(self) -> dict[str, Any]:
        """The record as plain data, without empty values."""
        values = [(field, getattr(self, field.name)) for field, _ in _kinds(type(self))]  # type: ignore[arg-type]
        return {
            field.name: _plain(value)
            for field, value in values
            if isinstance(value, bool | int | float | str) or value != _default(field)
        }

    @classmethod
    def from_json(cls, value: object, where: str = "") -> Self:
        """The inverse of `to_json`.

        Unknown keys are ignored, since a later version may have written them. Missing values and nulls take their
        defaults, since an earlier version may not have written them.

        `where` is the prefix of keys in messages.

        Raises ValueError, naming the key, if a value has another type, or a required one is missing.
        """
        if not isinstance(value, dict):
            raise ValueError(f"{printable(where).rstrip('.') or 'it'} is {_shown(value)}")
        known = {}
        for field, kind in _kinds(cls):  # type: ignore[arg-type]
            inner = value.get(field.name)
            if inner is None and _default(field) is not dataclasses.MISSING:
                continue
            if field.name not in value:
                raise ValueError(f"{printable(where)}{field.name} is missing")
            known[field.name] = _read(kind, inner, f"{where}{field.name}")
        return cls(**known)

    @classmethod
    def read(cls, path: Path, what: str) -> Self:
        """Reads the record of `what`, such as "a run". Raises ValueError, naming the file, if it is broken."""
        try:
            content = json.loads(path.read_bytes())
            if not isinstance(content, dict):
                raise ValueError(f"it is not the record of {what}")
            return cls.from_json(content)
        except LaterVersionError as error:
            raise ValueError(f"{path} {error}") from error
        except ValueError as error:
            raise ValueError(f"{path} is broken: {error}") from error

    def write(self, path: Path) -> None:
        """Replaces the file, all or nothing. NaN and infinities become null."""
        write_json_whole(path, self.to_json())


class LaterVersionError(ValueError):
    """The record was written by a later version of this project."""


def printable(text: object) -> str:
    """Text of a file on one line, without terminal control characters."""
    return "".join(c if c.isprintable() else "?" for c in re.sub(r"\s+", " ", str(text)))


def _plain(value: object) -> object:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _default(field: dataclasses.Field[Any]) -> object:
    make: Callable[[], object] | Any = field.default_factory
    return make() if callable(make) else field.default


@functools.cache
def _kinds(cls: type[Any]) -> list[tuple[dataclasses.Field[Any], Any]]:
    """The fields of a record with their types."""
    hints = get_type_hints(cls)
    return [(field, hints[field.name]) for field in dataclasses.fields(cls)]


def _read(kind: Any, value: object, where: str) -> Any:  # noqa: ANN401 - a type, and a value of it
    """`value` as a type says. Raises ValueError if it does not fit."""
    if kind is Any:
        return value
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        (kind,) = (each for each in inner if each is not type(None))
        return _read(kind, value, where)
    if origin is Literal and value in inner:
        return value
    if origin is dict and isinstance(value, dict):
        return {key: _read(inner[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is list and isinstance(value, list):
        return [_read(inner[0], item, f"{where}[{number}]") for number, item in enumerate(value)]
    if isinstance(kind, type) and issubclass(kind, Record):
        return kind.from_json(value, f"{where}.")
    wanted = (int, float) if kind is float else kind
    if origin is None and isinstance(value, wanted) and (kind is bool or not isinstance(value, bool)):
        return value
    raise ValueError(f"{printable(where)} is {_shown(value)}")


def _shown(value: object) -> str:
    return repr(printable(str(value)[:40]))

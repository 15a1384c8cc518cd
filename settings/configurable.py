"""Objects that a config can name: they describe themselves as plain data and are rebuilt from it.

A checkpoint holds `describe(model)`, so it opens without its config. It holds nothing but plain types, so it loads with
`weights_only=True`. As in scikit-learn, every constructor argument is kept as an attribute of the same name.
"""

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

from settings.names import named

Plain: TypeAlias = bool | int | float | str | list["Plain"] | dict[str, "Plain"] | None


class Configurable:
    """Base class of all that `class_path` may name: models, losses, penalties, schedules, augmentations, data."""


def describe(part: Configurable, without: Collection[str] = ()) -> dict[str, Plain]:
    """The class path and the constructor arguments of `part`, except those in `without`, as plain data.

    Raises TypeError if an argument is not kept as an attribute, or has no plain form.
    """
    owner = type(part)
    arguments = [name for name in inspect.signature(owner).parameters if name not in without]
    missing = [name for name in arguments if not hasattr(part, name)]
    if missing:
        raise TypeError(f"{owner.__name__} must keep its argument {missing[0]!r} as an attribute of that name")
    init_args = {name: _plain(getattr(part, name), f"{owner.__name__}.{name}") for name in arguments}
    return {"class_path": f"{owner.__module__}.{owner.__qualname__}", "init_args": init_args}


def _plain(value: object, where: str) -> Plain:
    if value is None or type(value) in (bool, int, float, str):
        return value  # type: ignore[return-value]
    if isinstance(value, Configurable):
        return describe(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise TypeError(
        f"{where} is a {type(value).__name__}, which a checkpoint cannot hold: use plain types or a Configurable"
    )


def build(description: object) -> Any:  # noqa: ANN401 - the type is named by the description itself
    """The inverse of `describe`. Lists and plain values pass through.

    Only subclasses of `Configurable` are called, and only modules of the project are imported (see
    `settings.names.named`). A checkpoint from a stranger can choose among our classes, but it cannot run a function or
    the top level of a module.

    Raises ValueError if a class path does not lead to a Configurable, or the arguments do not fit its constructor.
    """
    if isinstance(description, list):
        return [build(item) for item in description]
    if not isinstance(description, dict):
        return description
    if set(description) != {"class_path", "init_args"}:
        return {key: build(item) for key, item in description.items()}
    owner, path = _owner(description), description["class_path"]
    if not isinstance(description["init_args"], dict):
        raise ValueError(f"{path}: init_args must be a mapping")
    arguments = {key: build(item) for key, item in description["init_args"].items()}
    try:
        return owner(**arguments)
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from error


def completed(description: Plain) -> Plain:
    """`description` as it would be written today; it means the same.

    Classes have today's paths, and arguments that did not exist when it was written have their defaults.

    Raises ValueError if a class path does not lead to a Configurable.
    """
    if isinstance(description, list):
        return [completed(item) for item in description]
    if not isinstance(description, dict):
        return description
    inner = {key: completed(item) for key, item in description.items()}
    arguments = inner.get("init_args")
    if set(inner) == {"class_path", "init_args"} and isinstance(arguments, dict):
        owner = _owner(description)
        inner["class_path"] = f"{owner.__module__}.{owner.__qualname__}"
        for name, parameter in inspect.signature(owner).parameters.items():
            if type(parameter.default) in (bool, int, float, str):
                arguments.setdefault(name, parameter.default)
    return inner


def _owner(description: Mapping[str, object]) -> type[Configurable]:
    path = str(description["class_path"])
    owner = named(path)
    if not (isinstance(owner, type) and issubclass(owner, Configurable)):
        raise ValueError(f"class_path {path!r} is not a Configurable, and is not called")
    return owner


def differences(old: Plain, new: Plain, where: str = "") -> list[str]:
    """Every place where two descriptions differ, as "key: old -> new" lines."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in [*old, *(key for key in new if key not in old)]:
            inner = where if key == "init_args" else f"{where}.{key}".lstrip(".")
            lines += differences(old.get(key), new.get(key), inner)
        return lines
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for i, (a, b) in pairs for line in differences(a, b, f"{where}[{i}]")]
    return [] if old == new else [f"{where}: {old} -> {new}"]

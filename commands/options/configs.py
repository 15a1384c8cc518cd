"""Reads configs. A config may include another one, and name a class by its name alone.

jsonargparse reads every config, fragment and flag through `load`.
"""

import importlib
from pathlib import Path
from typing import Any

import jsonargparse
import yaml
from jsonargparse.typing import path_type

from commands.options.errors import InputError, read_yaml
from commands.options.own_files import make_findable
from settings.names import modules_with

FOLDER = path_type("dr")
MODE = "atelier"
"""The parser mode in which jsonargparse reads through `load`."""


def load(text: str) -> Any:  # noqa: ANN401 - whatever YAML holds
    """The value of a config or of a flag, with its includes; the classes that it names are imported.

    Paths are relative to the config's folder, which is jsonargparse's current folder while it reads the file.
    """
    folder = Path(FOLDER(".").absolute)
    value = jsonargparse.get_loader("yaml")(text)
    if isinstance(value, dict) and "include" in value:
        value = _whole(value, folder, ())
    import_classes(value, folder)
    return value


jsonargparse.set_loader(MODE, load, (yaml.YAMLError,))


def import_classes(value: Any, folder: Path) -> None:  # noqa: ANN401 - whatever YAML holds
    """Imports the modules of all classes that are given by name alone, so that jsonargparse knows them.

    Modules of full paths outside the project become findable, and jsonargparse imports them.
    """
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            import_classes(item, folder)
    elif isinstance(value, str) and all(word.isidentifier() for word in value.split(".")):
        for module in modules_with(value):
            importlib.import_module(module)
        if "." in value:
            make_findable(value, folder)


def read_config(path: Path) -> Any:  # noqa: ANN401 - whatever YAML holds
    """A config, or a fragment of one, with its includes and fragments in place.

    Raises FileNotFoundError if a file is missing, and InputError if one is not YAML, or includes itself.
    """
    return _read(path, ())


def _read(path: Path, above: tuple[Path, ...]) -> Any:  # noqa: ANN401 - whatever YAML holds
    path = path.resolve()
    if path in above:
        raise InputError(f"{path.name} includes itself: {' -> '.join(each.name for each in (*above, path))}")
    if not path.is_file():
        raise FileNotFoundError(f"{above[-1].name}: no config at {path}" if above else f"no config at {path}")
    return _whole(read_yaml(path, jsonargparse.get_loader("yaml")), path.parent, (*above, path))


def _whole(content: Any, folder: Path, above: tuple[Path, ...]) -> Any:  # noqa: ANN401 - whatever YAML holds
    """`content` of a file in `folder`, merged over its include; fragments are read where they are named."""
    if not isinstance(content, dict):
        return content
    own = {
        key: _read(folder / value, above) if isinstance(value, str) and value.endswith((".yaml", ".yml")) else value
        for key, value in content.items()
    }
    included = own.pop("include", {})
    if not isinstance(included, dict):
        raise InputError(f"include: {content['include']}: give one run config, relative to this one's folder")
    return _merged(included, own)


def _merged(below: Any, over: Any) -> Any:  # noqa: ANN401 - whatever YAML holds
    """`over` merged into `below`, key by key; another class drops the arguments of the class below."""
    if isinstance(below, str) and isinstance(over, dict) and "init_args" in over:
        below = {"class_path": below}
    if not (isinstance(below, dict) and isinstance(over, dict)):
        return over
    if not _same_class(below.get("class_path"), over.get("class_path")):
        below = {key: value for key, value in below.items() if key != "init_args"}
    return {**below, **{key: _merged(below.get(key), value) for key, value in over.items()}}


def _same_class(below: object, over: object) -> bool:
    """Whether `over` keeps the class; a name alone may stand for a full path."""
    if over is None or below == over:
        return True
    names = [str(each).rpartition(".") for each in (below, over)]
    return names[0][2] == names[1][2] and not all(module for module, _, _ in names)

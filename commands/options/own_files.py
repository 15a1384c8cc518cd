"""The user's own files, outside this project: where their modules are found, and which verbs may import them."""

import importlib
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from commands.options.errors import InputError, one_line


def split_imports(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Arguments without `--import FILE`, and the files."""
    words, files = [], []
    rest = iter(arguments)
    for word in rest:
        name, equals, value = word.partition("=")
        if name == "--import":
            files.append(value if equals else next(rest, ""))
        else:
            words.append(word)
    return words, files


def import_own(file: str) -> None:
    """Imports a file, whose module has its name, or a module's dotted name, found in the working directory.

    Raises:
        InputError: there is none, it fails, or its name is another module's.
    """
    path = Path(file)
    if path.suffix == ".py" and not path.is_file():
        raise InputError(f"--import {file}: no such file")
    _add_to_path(path.resolve().parent if path.suffix == ".py" else Path.cwd())
    try:
        module = importlib.import_module(path.stem if path.suffix == ".py" else file)
    except Exception as error:  # whatever the user's code raises
        raise InputError(f"--import {file}: {type(error).__name__}: {one_line(error)}") from error
    if path.suffix == ".py" and Path(module.__file__ or "").resolve() != path.resolve():
        raise InputError(f"--import {file}: {module.__name__} is the name of another module already; rename the file")


def make_findable(module: str, beside: Path) -> None:
    """Lets Python find a module that lies in the working directory or `beside`; it goes before nothing installed."""
    top = module.partition(".")[0]
    if top in sys.modules or find_spec(top) is not None:
        return
    for folder in (Path.cwd(), beside):
        if (folder / f"{top}.py").is_file() or (folder / top).is_dir():
            _add_to_path(folder)


def _add_to_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    importlib.invalidate_caches()

"""Imports and finds the user's own files, outside this project."""

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path

from commands.options.errors import InputError, one_line


def import_own(file: str) -> None:
    """Imports a .py file under its own name, or a dotted module name from the working directory.

    Raises InputError if there is none, it fails, or another module has its name.
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
        raise InputError(f"--import {file}: another module is named {module.__name__} already; rename the file")


def make_findable(module: str, beside: Path) -> None:
    """Lets Python find a module in the working directory or `beside`. Installed packages come first."""
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

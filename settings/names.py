"""Finds the class that a class path names. A class's name alone is enough if one file of the project defines it.

Files are found by reading the folders. Only the file that defines the class is imported.
"""

import ast
import difflib
import functools
import importlib
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("models", "datamodules", "settings")
"""Packages whose classes a config can name."""
ROOTS = ("Configurable", "DataModule")
"""Base classes, direct or indirect, of every class that a config can name."""


def modules_with(name: str) -> list[str]:
    """The modules of the project that define a configurable class of this name. None is imported."""
    return _by_name(_folders()).get(name, [])


def like(name: str) -> str:
    """A suggestion of similar class names, to end an error message with; empty if there are none."""
    known = {each.lower(): each for each in _by_name(_folders())}
    found = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.7)
    return f"; did you mean {' or '.join(known[each] for each in found)}?" if found else ""


def named(path: str) -> object:
    """The object at a class path: the name of one of the project's classes, or a full path.

    Only modules of the project are imported. The user must import any other module first, so that a checkpoint or
    config from a stranger cannot run code.

    Raises ValueError if the path leads nowhere, or to several classes.
    """
    module, _, name = path.rpartition(".")
    if not module:
        modules = modules_with(name)
        if not modules:
            raise ValueError(f"class_path {path!r}: no class of that name in {' or '.join(PACKAGES)}{like(name)}")
        if len(modules) > 1:
            full = " or ".join(f"{each}.{name}" for each in modules)
            raise ValueError(f"class_path {path!r} is the name of several classes; write {full}")
        module = modules[0]
    try:
        ours = module.split(".")[0] in PACKAGES
        return getattr(importlib.import_module(module) if ours else sys.modules[module], name)
    except KeyError as error:
        own = module if "." in module else f"{module}.py"
        raise ValueError(
            f"class_path {path!r} is not a class of Atelier, so its module is not imported automatically; "
            f"if it is yours, add --import {own}"
        ) from error
    except (ImportError, AttributeError) as error:
        raise ValueError(f"class_path {path!r} cannot be imported: {error}") from error


def _folders() -> tuple[tuple[str, str], ...]:
    """Pairs of a package and a folder that it lies in."""
    specs = [(package, find_spec(package)) for package in PACKAGES]
    return tuple(
        (package, folder)
        for package, spec in specs
        if spec is not None
        for folder in spec.submodule_search_locations or ()
    )


@functools.cache
def _by_name(folders: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """The modules of each configurable class, read from the sources."""
    found: dict[str, list[str]] = {}
    bases: dict[str, set[str]] = {}
    for package, folder in folders:
        for file in sorted(Path(folder).rglob("*.py")):
            inner = file.relative_to(folder).with_suffix("").parts
            module = ".".join((package, *inner)).removesuffix(".__init__")
            for node in ast.parse(file.read_text(), str(file)).body:
                if isinstance(node, ast.ClassDef):
                    found.setdefault(node.name, []).append(module)
                    # `bases.Base[T]` is Base
                    bases.setdefault(node.name, set()).update(
                        ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases
                    )

    derived = set(ROOTS)
    while further := {name for name, over in bases.items() if over & derived} - derived:
        derived |= further
    return {name: modules for name, modules in found.items() if name in derived}

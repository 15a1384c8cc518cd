"""Errors that the user can fix are printed in one line, with exit code 2. Others are crashes with a traceback."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from settings.names import like, modules_with

BAD_INPUT = (ValueError, OSError, TypeError, ModuleNotFoundError)
"""What our own checks raise for bad input, and Lightning's for missing hardware."""


class InputError(Exception):
    """An error in the command, a config or a file that the user can fix."""


def one_line(error: BaseException) -> str:
    """The error in one line."""
    return re.sub(r"\s*\n\s*", " ", str(error).strip()) or type(error).__name__


def parser_error(message: str) -> str:
    """jsonargparse's nested message as one line: the full key, then what is wrong with it.

    The message is a tree with a level of keys per line and reasons at the leaves. If it has several branches, one for
    each type that a value may have, the deepest reason is the best.
    """
    if "arguments are required" in message:
        return f"{message}: give a run config, such as --config configs/dcgan_fashion_mnist.yaml"
    best: tuple[int, list[str], str] = (-1, [], one_line(ValueError(message)))
    path: list[tuple[int, str]] = []
    for line in filter(str.strip, message.splitlines()):
        depth = len(line) - len(line.lstrip(" -"))
        path = [(at, key) for at, key in path if at < depth]
        if match := re.match(r"Parser key \"(.+?)\":?(.*)", line.strip(" -")):
            path.append((depth, match[1]))
            if not match[2].strip():
                continue
            line = match[2]
        text = line.strip(" -")
        if re.match(
            r"Problem with given class_path|Does not validate against|Subtypes|Errors|Given value"
            r"|Expected a <class 'NoneType'>",
            text,
        ):
            continue
        name = re.match(r"Expected a dot import path string: (.*)", text)
        if depth > best[0] or (name and like(name[1])):
            best = (depth, [key for _, key in path], text)
    _, keys, reason = best
    if name := re.match(r"Expected a dot import path string: (.*)", reason):
        full = [f"{module}.{name[1]}" for module in modules_with(name[1])]
        reason = f"the class {full[0]} does not fit here" if full else f"there is no class {name[1]!r}{like(name[1])}"
    if re.match("No module named", reason):
        reason += "; put a file of yours in the working directory or beside the config"
    joined = ".".join(keys)
    return f"{joined}: {reason}" if joined and not reason.startswith(joined) else reason


def read_yaml(path: Path, load: Callable[[str], Any] | None = None) -> Any:  # noqa: ANN401 - whatever YAML holds
    """The content of a YAML file, read by `load` or PyYAML's safe loader. OSError if it cannot be read.

    Raises InputError if it is not YAML, with file, line and column.
    """
    import yaml  # not at the top: every verb imports this module, and few of them read YAML

    try:
        return (load or yaml.safe_load)(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {one_line(error)}") from error

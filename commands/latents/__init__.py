"""`latents`: verbs that explore a checkpoint's latents, one file each; `commands.options` holds what they share."""

import importlib
from collections.abc import Sequence


def run(arguments: Sequence[str]) -> int:
    """Runs the verb that the first word names, and returns its exit code."""
    return int(importlib.import_module(f"commands.latents.{arguments[0]}").run(arguments[1:]))

"""`latents`: the verbs that move a checkpoint's latents, one file each; what they share lies in `commands.options`."""

import importlib
from collections.abc import Sequence


def run(arguments: Sequence[str]) -> int:
    """Runs the verb that the first word names; gives its exit code."""
    return int(importlib.import_module(f"commands.latents.{arguments[0]}").run(arguments[1:]))

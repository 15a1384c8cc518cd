"""Networks as torch.compile makes them, beside themselves.

Compiled code differentiates once: penalties, which differentiate twice, call the network itself. Nothing is compiled
before the first call.
"""

import logging
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Ops: TypeAlias = Literal["auto", "reference", "compiled"]


class Compiled:
    """A function of tensors, compiled if it is to be.

    Args:
        function: what is computed, a network's forward pass for instance.
        ops: "reference" for the function as it is; "compiled"; "auto" for compiled on CUDA, where that pays for the
            minute it takes, and as it is elsewhere, or where compiling fails, which is logged, once.
    """

    def __init__(self, function: Callable[..., Tensor], ops: Ops) -> None:
        if ops not in ("auto", "reference", "compiled"):
            raise ValueError(f"ops must be auto, reference or compiled, not {ops!r}")
        self.function, self.ops = function, ops
        self._compiled: Callable[..., Tensor] | None = None

    def __call__(self, x: Tensor, *rest: Tensor) -> Tensor:
        if self.ops == "reference" or (self.ops == "auto" and x.device.type != "cuda"):
            return self.function(x, *rest)
        if self._compiled is None:
            self._compiled = torch.compile(self.function, dynamic=False)
        try:
            return self._compiled(x, *rest)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a compiler fails in as many ways as there are compilers
            if self.ops == "compiled":
                raise ValueError(f"ops: compiled fails here, set auto or reference: {_gist(error)}") from error
            value = self.function(x, *rest)  # where this fails too, compiling is not to blame
            self.ops = "reference"
            _log_once(_gist(error))
            return value


_logged = False


def _log_once(reason: str) -> None:
    global _logged
    if not _logged:
        logging.getLogger(__name__).warning("torch.compile failed, and ops: auto goes on without it: %s", reason)
    _logged = True


def _gist(error: Exception) -> str:
    """The first line that says something, cut short."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"

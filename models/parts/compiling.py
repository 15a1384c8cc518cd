"""torch.compile, with the original function kept for penalties.

Compiled code differentiates only once, and penalties differentiate twice, so they call the network itself. Nothing is
compiled before the first call.
"""

import logging
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Ops: TypeAlias = Literal["auto", "reference", "compiled"]


class Compiled:
    """A function of tensors that may be compiled.

    Args:
        function: for instance a network's forward pass.
        ops: "reference" calls the function as it is; "compiled" compiles it; "auto" compiles on CUDA, where that pays
            for the minute it takes, and calls it as it is elsewhere, or if compiling fails, which is logged once.
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
        except Exception as error:  # compilers raise all kinds of errors
            if self.ops == "compiled":
                raise ValueError(f"ops: compiled fails here, set auto or reference: {_gist(error)}") from error
            value = self.function(x, *rest)  # if this fails too, compiling is not to blame
            self.ops = "reference"
            _log_once(_gist(error))
            return value


_logged = False


def _log_once(reason: str) -> None:
    global _logged
    if not _logged:
        logging.getLogger(__name__).warning("torch.compile failed; ops: auto continues without it: %s", reason)
    _logged = True


def _gist(error: Exception) -> str:
    """The first line with text, shortened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"

"""Exact arithmetic for figures, whatever a trainer has set around it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

Precision = Literal["float32", "bfloat16"]
DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@contextmanager
def exact_arithmetic(device: torch.device, gradients: bool = False) -> Iterator[None]:
    """Inside, on `device`: no gradients, no autocast, and float32 products in float32. Settings are restored.

    With `gradients`, they are recorded if they are outside, for distances that are minimised. By default, torch runs
    float32 convolutions on CUDA in TF32, with 10 bits of mantissa, and `set_float32_matmul_precision` does something
    similar to matrix products, on CUDA and on CPU.
    """
    backends: Any = torch.backends  # untyped
    backends = backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        recorded = gradients and torch.is_grad_enabled()
        with torch.set_grad_enabled(recorded), torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision

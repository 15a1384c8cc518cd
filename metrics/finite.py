"""Checked rows of numbers for statistics."""

from torch import Tensor


def finite(rows: Tensor, name: str) -> Tensor:
    """Rows (N, D) from any device in float64 on the CPU. ValueError, naming `name`, for NaN or infinity."""
    rows = rows.detach().cpu().double()  # first to the CPU: some accelerators have no float64
    broken = int((~rows.isfinite()).any(1).sum())
    if broken:
        raise ValueError(f"{name}: {broken} of {len(rows)} hold NaN or infinity; look at the samples")
    return rows

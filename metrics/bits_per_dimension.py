"""Bits per dimension: how many bits a model needs, on average, for each value of a held-out sample."""

import math

import torch

from records.figures import Direction, Figure

BETTER: Direction = "lower"
PREFIX = "bits_per_"
"""The start of the figure's name, before the kind of value: bits_per_dim, bits_per_character."""


def bits_per_dimension(log_probs: torch.Tensor, dimensions: int) -> Figure:
    """-log2 p(x) / D, averaged over samples, with its standard error (van den Oord et al. 2016, section 5.1).

    The log-probabilities, or bounds of them, are natural, float64 (N,); `dimensions` are the values in a sample,
    C x H x W for pictures. ValueError if there are no samples, or a log-probability is NaN.
    """
    if not len(log_probs):
        raise ValueError("bits per dimension need at least one sample")
    bits = -log_probs.double() / (math.log(2) * dimensions)
    if bits.isnan().any():
        raise ValueError(f"{int(bits.isnan().sum())} of {len(bits)} log-probabilities are NaN")
    error = float(bits.std() / len(bits) ** 0.5) if len(bits) > 1 else None
    return Figure(float(bits.mean()), BETTER, error, {"spread": "standard error over samples"})

"""Distributions of pictures whose values are bytes, and dequantisation.

Every function returns one value per element; the caller sums over a picture.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from media.pictures import LEVELS, to_levels

HALF_STEP = 1 / (LEVELS - 1)
"""Half the distance between two neighbouring values of a picture in [-1, 1]."""


def dequantized(x: Tensor, noise: Tensor) -> Tensor:
    """Pictures in [-1, 1] as continuous values in [-1, 1]: each byte is spread evenly over its 256th of the interval.

    For a density p of these, E[log p] + `DEQUANTIZED_LOG_WIDTH` per value is a lower bound of the log-probability of
    the bytes (Theis, van den Oord & Bethge 2016, section 3.1). The noise is uniform in [0, 1), of the same shape.
    """
    return (to_levels(x) + noise) * (2 / LEVELS) - 1


DEQUANTIZED_LOG_WIDTH = math.log(2 / LEVELS)
"""The log-width of a byte's interval, which turns a log-density of `dequantized` into a log-probability."""


def logistic(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log P(byte) under a logistic distribution cut into 256 bins (Kingma et al. 2016; Salimans et al. 2017, eq. 2).

    The two outer bins extend to infinity, so that the 256 probabilities add up to one. `x` holds bytes' values in
    [-1, 1], and the mean lies on the same axis.
    """
    inverse = torch.exp(-log_scale)
    upper, lower = (x - mean + HALF_STEP) * inverse, (x - mean - HALF_STEP) * inverse
    below, above = F.logsigmoid(upper), F.logsigmoid(-lower)
    # s(b) - s(a) = s(b) s(-a) (1 - exp(a - b)): no difference of nearly equal numbers.
    inside = below + above + torch.log(-torch.expm1(-2 * HALF_STEP * inverse))
    return _outer_bins(x, inside, below, above)


def gaussian(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """As `logistic`, under a normal distribution; its scale is the standard deviation."""
    inverse = torch.exp(-log_scale)
    upper, lower = (x - mean + HALF_STEP) * inverse, (x - mean - HALF_STEP) * inverse
    # Above the mean it takes the mirrored bin, so that differences are taken in the thin tail and not near one.
    flip = lower > 0
    right, left = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
    of_right, of_left = torch.special.log_ndtr(right), torch.special.log_ndtr(left)
    inside = of_right + torch.log(-torch.expm1(of_left - of_right))
    return _outer_bins(x, inside, torch.special.log_ndtr(upper), torch.special.log_ndtr(-lower))


def bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    """The log-likelihood of a Bernoulli distribution, with x in [-1, 1] as the probability of "on": its cross-entropy.

    Many VAEs of grey pictures are trained with it. It is no probability of bytes, so there are no bits per dimension.
    """
    return -F.binary_cross_entropy_with_logits(logits, (x + 1) / 2, reduction="none")


def _outer_bins(x: Tensor, inside: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
    return torch.where(x < -1 + HALF_STEP, lowest, torch.where(x > 1 - HALF_STEP, highest, inside))

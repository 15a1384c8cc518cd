"""Probabilities of pictures whose values are bytes, and their spread over an interval.

Every function gives one value an element; sums over a picture are the caller's.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from media.pictures import LEVELS, to_levels

HALF_STEP = 1 / (LEVELS - 1)
"""Half the distance of two neighbouring values of a picture in [-1, 1]."""


def dequantized(x: Tensor, noise: Tensor) -> Tensor:
    """Pictures in [-1, 1] as continuous values in [-1, 1]: each byte spread evenly over its 256th of the interval.

    For a density p of these, E[log p] + `DEQUANTIZED_LOG_WIDTH` a value is a lower bound of the bytes' log-probability
    (Theis, van den Oord & Bethge 2016, section 3.1).

    Args:
        x: (N, ...), values of bytes.
        noise: the same shape, uniform in [0, 1).
    """
    return (to_levels(x) + noise) * (2 / LEVELS) - 1


DEQUANTIZED_LOG_WIDTH = math.log(2 / LEVELS)
"""Of the interval that one byte is spread over: what turns a log-density of `dequantized` into a log-probability."""


def logistic(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log P(byte) under a logistic distribution cut into 256 bins (Kingma et al. 2016; Salimans et al. 2017, eq. 2).

    The two outer bins reach to infinity, so that the 256 probabilities add up to one.

    Args:
        x: values in [-1, 1], those of bytes.
        mean: of the distribution, on the same axis.
        log_scale: the logarithm of its scale.
    """
    inverse = torch.exp(-log_scale)
    upper, lower = (x - mean + HALF_STEP) * inverse, (x - mean - HALF_STEP) * inverse
    below, above = F.logsigmoid(upper), F.logsigmoid(-lower)
    # s(b) - s(a) = s(b) s(-a) (1 - exp(a - b)): no difference of nearly equal numbers.
    inside = below + above + torch.log(-torch.expm1(-2 * HALF_STEP * inverse))
    return _outer_bins(x, inside, below, above)


def gaussian(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log P(byte) under a normal distribution cut into 256 bins, of which the outer two reach to infinity.

    Arguments as `logistic`; the scale is the standard deviation.
    """
    inverse = torch.exp(-log_scale)
    upper, lower = (x - mean + HALF_STEP) * inverse, (x - mean - HALF_STEP) * inverse
    # The bin's mirror image where it lies above the mean: differences are then taken in the thin tail, not near one.
    flip = lower > 0
    right, left = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
    of_right, of_left = torch.special.log_ndtr(right), torch.special.log_ndtr(left)
    inside = of_right + torch.log(-torch.expm1(of_left - of_right))
    return _outer_bins(x, inside, torch.special.log_ndtr(upper), torch.special.log_ndtr(-lower))


def bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    """x in [-1, 1] as the probability of "on" of a binary value, under a Bernoulli distribution: its cross-entropy.

    What many VAEs of grey pictures are trained with. It is no probability of bytes, and no bits a dimension follow.
    """
    return -F.binary_cross_entropy_with_logits(logits, (x + 1) / 2, reduction="none")


def _outer_bins(x: Tensor, inside: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
    return torch.where(x < -1 + HALF_STEP, lowest, torch.where(x > 1 - HALF_STEP, highest, inside))

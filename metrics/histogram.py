"""A baseline for bits per dimension: the frequencies of pictures' values, without any learning.

python docs/programs/histogram_bits.py configs/vae_fashion_mnist.yaml
"""

import math

import torch
from torch import Tensor

from media.pictures import LEVELS


def histogram_bits(train: Tensor, test: Tensor, each_pixel: bool, pseudocount: float = 1.0) -> float:
    """Bits per dimension of test pictures with independent values, which have the training pictures' frequencies.

    The probability of value v is (count of v + pseudocount) / (values counted + 256 pseudocount): Laplace's rule of
    succession for 1, which gives unseen values a probability too. `train` and `test` are uint8 (N, ...) and (M, ...).
    With `each_pixel`, each channel of each pixel has its own frequencies; otherwise all share one histogram.

    ValueError if the shapes differ, there are no pictures, or the pseudocount is not above 0.
    """
    if train.shape[1:] != test.shape[1:] or not train.numel() or not test.numel():
        raise ValueError(f"histogram_bits needs pictures of one shape, not {tuple(train.shape)}, {tuple(test.shape)}")
    if not pseudocount > 0:
        raise ValueError(f"pseudocount must be above 0, not {pseudocount}")
    places = math.prod(train.shape[1:]) if each_pixel else 1
    # One histogram per row: value v at place p is counted in bin 256 p + v.
    offsets = LEVELS * torch.arange(places)

    def counts(pictures: Tensor) -> Tensor:
        total = torch.zeros(places * LEVELS, dtype=torch.float64)
        for some in pictures.cpu().split(4096):
            bins = some.reshape(-1, places).to(torch.int64) + offsets
            total += torch.bincount(bins.flatten(), minlength=places * LEVELS).double()
        return total.view(places, LEVELS)

    seen = counts(train) + pseudocount
    probabilities = seen / seen.sum(1, keepdim=True)
    return float(-(counts(test) * probabilities.log2()).sum() / test.numel())

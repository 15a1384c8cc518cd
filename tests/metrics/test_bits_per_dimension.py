"""Bits per dimension against what is known in closed form."""

import math

import pytest
import torch

from metrics.bits_per_dimension import bits_per_dimension


def test_even_bytes_need_eight_bits() -> None:
    log_probs = torch.full((5,), -12 * math.log(256), dtype=torch.float64)
    figure = bits_per_dimension(log_probs, 12)
    assert figure.value == pytest.approx(8.0, abs=1e-14)
    assert figure.spread == pytest.approx(0.0, abs=1e-14)
    assert figure.better == "lower"


def test_the_mean_of_a_known_source_is_its_entropy() -> None:
    """Symbols of probability 1/2, 1/4, 1/8, 1/8, as often as they come: 1.75 bits each."""
    probabilities = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)
    log_probs = probabilities.log().repeat_interleave(torch.tensor([4, 2, 1, 1]))
    figure = bits_per_dimension(log_probs, 1)
    assert figure.value == pytest.approx(1.75, abs=1e-14)
    bits = torch.tensor([1.0] * 4 + [2.0] * 2 + [3.0] * 2)
    assert figure.spread == pytest.approx(float(bits.std()) / 8**0.5, rel=1e-6)


def test_what_is_no_number_is_refused_and_an_impossible_sample_is_not() -> None:
    with pytest.raises(ValueError, match="1 of 2 log-probabilities are NaN"):
        bits_per_dimension(torch.tensor([math.nan, -1.0]), 1)
    with pytest.raises(ValueError, match="at least one"):
        bits_per_dimension(torch.empty(0), 1)
    assert bits_per_dimension(torch.tensor([-math.inf, -1.0]), 1).value == math.inf

"""Probabilities of bytes: they add up to one, and agree with what is computed otherwise."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from media.pictures import LEVELS, from_levels
from models.parts.output_distributions import DEQUANTIZED_LOG_WIDTH, bernoulli, dequantized, gaussian, logistic

Likelihood = Callable[[Tensor, Tensor, Tensor], Tensor]
VALUES = torch.arange(LEVELS, dtype=torch.float64) / 127.5 - 1


@pytest.mark.parametrize("likelihood", [logistic, gaussian])
@pytest.mark.parametrize("mean", [-1.7, -1.0, -0.3, 0.0, 0.999, 2.5])
@pytest.mark.parametrize("log_scale", [-7.0, -3.0, 0.0, 2.0])
def test_the_256_probabilities_add_up_to_one(likelihood: Likelihood, mean: float, log_scale: float) -> None:
    parameters = torch.tensor(mean, dtype=torch.float64), torch.tensor(log_scale, dtype=torch.float64)
    log_probs = likelihood(VALUES, *parameters)
    assert log_probs.isfinite().all()
    assert log_probs.exp().sum().item() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("likelihood", [logistic, gaussian])
def test_far_tails_stay_finite_in_float32_and_their_gradients_too(likelihood: Likelihood) -> None:
    x = VALUES.float()
    mean, log_scale = torch.tensor(-1.0, requires_grad=True), torch.tensor(-4.0, requires_grad=True)
    likelihood(x, mean, log_scale).sum().backward()
    for grad in (mean.grad, log_scale.grad):
        assert grad is not None
        assert grad.isfinite()
    exact = likelihood(VALUES, mean.double(), log_scale.double())
    torch.testing.assert_close(likelihood(x, mean, log_scale).double(), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("likelihood", "distribution"),
    [
        (gaussian, lambda mean, scale: torch.distributions.Normal(mean, scale)),
        (
            logistic,
            lambda mean, scale: torch.distributions.TransformedDistribution(
                torch.distributions.Uniform(torch.zeros_like(mean), torch.ones_like(mean)),
                [
                    torch.distributions.SigmoidTransform().inv,
                    torch.distributions.AffineTransform(mean, scale),
                ],
            ),
        ),
    ],
)
def test_a_bin_has_the_difference_of_the_distribution_function(
    likelihood: Likelihood, distribution: Callable[[Tensor, Tensor], torch.distributions.Distribution]
) -> None:
    mean, scale = torch.tensor(0.2, dtype=torch.float64), torch.tensor(0.15, dtype=torch.float64)
    of = distribution(mean, scale)
    edges = (VALUES[1:] + VALUES[:-1]) / 2
    below = torch.cat([torch.zeros(1).double(), of.cdf(edges), torch.ones(1).double()])
    torch.testing.assert_close(likelihood(VALUES, mean, scale.log()).exp(), below.diff(), rtol=1e-7, atol=1e-13)


@pytest.mark.parametrize("likelihood", [logistic, gaussian])
def test_gradients(likelihood: Likelihood) -> None:
    x = VALUES[::37]
    mean = torch.linspace(-1.1, 1.1, len(x), dtype=torch.float64, requires_grad=True)
    log_scale = torch.linspace(-3, 1, len(x), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m, s: likelihood(x, m, s), (mean, log_scale))


def test_bernoulli_is_the_cross_entropy() -> None:
    x, logits = torch.tensor([-1.0, 1.0, 0.5], dtype=torch.float64), torch.tensor([0.3, 0.3, -1.0], dtype=torch.float64)
    p, on = torch.sigmoid(logits), (x + 1) / 2
    torch.testing.assert_close(bernoulli(x, logits), on * p.log() + (1 - on) * (1 - p).log())


def test_dequantization_spreads_each_byte_over_its_share() -> None:
    levels = torch.arange(LEVELS)
    low = dequantized(from_levels(levels), torch.zeros(LEVELS))
    high = dequantized(from_levels(levels), torch.full((LEVELS,), 1 - 2**-12))
    assert low[0] == -1
    torch.testing.assert_close(low[1:], high[:-1], rtol=0, atol=1e-5)
    assert (high < 1).all()


def test_a_density_that_is_even_within_bytes_gives_their_probabilities_exactly() -> None:
    """Dequantization's bound is tight there: here for a triangle of probabilities over the bytes."""
    probabilities = torch.arange(1, LEVELS + 1, dtype=torch.float64)
    probabilities /= probabilities.sum()
    noise = torch.rand(LEVELS, generator=torch.Generator().manual_seed(0))
    v = dequantized(from_levels(torch.arange(LEVELS)), noise)
    density = probabilities[((v + 1) * 128).floor().long()] * LEVELS / 2
    torch.testing.assert_close(density.log() + DEQUANTIZED_LOG_WIDTH, probabilities.log())

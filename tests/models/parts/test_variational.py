"""Divergences and bounds against closed forms, in float64."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from models.parts.variational import (
    active_units,
    divergence_from_prior,
    importance_bound,
    normal_log_density,
    reparametrize,
    with_free_bits,
)

DIMENSIONS, LATENTS = 5, 2


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_divergence_is_that_of_torch() -> None:
    mean, log_variance = drawn(20, 3), drawn(20, 3, seed=1)
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(divergence_from_prior(mean, log_variance), expected, rtol=1e-12, atol=1e-12)
    assert divergence_from_prior(torch.zeros(()), torch.zeros(())) == 0


def test_divergence_is_the_mean_log_ratio_of_draws() -> None:
    mean, log_variance, count = drawn(4), drawn(4, seed=1), 400_000
    z = mean + (0.5 * log_variance).exp() * drawn(count, 4, seed=2)
    ratios = normal_log_density(z, mean, log_variance) - normal_log_density(z)
    error = ratios.std(0) / math.sqrt(count)
    assert ((ratios.mean(0) - divergence_from_prior(mean, log_variance)).abs() < 5 * error).all()


def test_normal_log_density_is_that_of_torch() -> None:
    z, mean, log_variance = drawn(9), drawn(9, seed=1), drawn(9, seed=2)
    expected = Normal(mean, (0.5 * log_variance).exp()).log_prob(z)
    torch.testing.assert_close(normal_log_density(z, mean, log_variance), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(normal_log_density(z), Normal(0.0, 1.0).log_prob(z.float()).double(), rtol=1e-6, atol=0)


def test_draws_have_the_mean_and_the_variance_and_their_gradients() -> None:
    mean, log_variance = drawn(5, 3).requires_grad_(), drawn(5, 3, seed=1).requires_grad_()
    z = reparametrize(mean, log_variance, torch.full_like(mean, 2.0))
    torch.testing.assert_close(z, mean + 2 * torch.exp(log_variance / 2), rtol=1e-12, atol=1e-12)
    by_mean, by_log_variance = torch.autograd.grad(z.sum(), (mean, log_variance))
    assert (by_mean == 1).all()
    torch.testing.assert_close(by_log_variance, torch.exp(log_variance / 2), rtol=1e-12, atol=1e-12)


class LinearGaussian:
    """z ~ N(0, 1), x = W z + noise of scale 0.7: evidence and posterior have closed forms."""

    scale = 0.7

    def __init__(self) -> None:
        # Orthogonal columns make the posterior's covariance diagonal, as an encoder's is.
        self.weights = torch.linalg.qr(drawn(DIMENSIONS, LATENTS)).Q * torch.tensor([1.5, 0.8], dtype=torch.float64)
        self.x = drawn(6, DIMENSIONS, seed=3)
        covariance = self.weights @ self.weights.T + self.scale**2 * torch.eye(DIMENSIONS, dtype=torch.float64)
        self.evidence = MultivariateNormal(torch.zeros(DIMENSIONS, dtype=torch.float64), covariance).log_prob(self.x)
        precision = 1 + (self.weights**2).sum(0) / self.scale**2
        self.mean = self.x @ self.weights / self.scale**2 / precision
        self.log_variance = -precision.log().expand_as(self.mean)

    def log_weights(self, mean: Tensor, log_variance: Tensor, draws: int) -> Tensor:
        """log p(x, z) - log q(z | x), (draws, 6), z drawn from an encoder with these moments."""
        z = mean + (0.5 * log_variance).exp() * drawn(draws, *mean.shape, seed=4)
        of_x = Normal(z @ self.weights.T, self.scale).log_prob(self.x).sum(-1)
        return of_x + (normal_log_density(z) - normal_log_density(z, mean, log_variance)).sum(-1)


def test_with_the_exact_posterior_the_bound_is_the_evidence_for_any_draw() -> None:
    model = LinearGaussian()
    weights = model.log_weights(model.mean, model.log_variance, 10)
    torch.testing.assert_close(weights, model.evidence.expand(10, -1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(importance_bound(weights), model.evidence, rtol=1e-12, atol=1e-12)


def test_one_draw_estimates_the_closed_form_of_the_bound() -> None:
    """ELBO = E[log p(x | z)] - KL, of which both terms are known for a linear decoder."""
    model = LinearGaussian()
    mean, log_variance = model.mean + 0.3, model.log_variance + 0.5
    weights = model.log_weights(mean, log_variance, 200_000)
    fit = Normal(mean @ model.weights.T, model.scale).log_prob(model.x).sum(-1)
    spread = (log_variance.exp() * (model.weights**2).sum(0)).sum(-1) / (2 * model.scale**2)
    closed = fit - spread - divergence_from_prior(mean, log_variance).sum(-1)
    error = weights.std(0) / math.sqrt(len(weights))
    assert ((weights.mean(0) - closed).abs() < 5 * error).all()
    gap = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(model.mean, (0.5 * model.log_variance).exp()))
    torch.testing.assert_close(model.evidence - closed, gap.sum(-1), rtol=1e-10, atol=1e-10)


def test_the_importance_weighted_bound_rises_to_the_evidence_with_its_draws() -> None:
    """With a wrong encoder; each expectation is a mean of many bounds."""
    model = LinearGaussian()
    weights = model.log_weights(model.mean + 0.3, model.log_variance + 0.5, 64 * 2_000)
    bounds = {}
    for k in (1, 4, 16, 64):
        parts = weights.unflatten(0, (k, -1))
        bounds[k] = importance_bound(parts.flatten(1)).view(-1, 6).mean(0)
    gaps = torch.stack([model.evidence - bounds[k] for k in (1, 4, 16, 64)])
    assert (gaps[:-1] > 1.5 * gaps[1:]).all(), "each step of k closes more than a third of the gap"
    assert (gaps[0] > 0.25).all()
    assert (gaps[-1].abs() < 0.02).all()
    torch.testing.assert_close(importance_bound(weights), model.evidence, rtol=0, atol=5e-3)


def test_a_bound_does_not_overflow() -> None:
    weights = torch.tensor([[-5000.0, 3000.0], [-5000.0, 2000.0]])
    torch.testing.assert_close(importance_bound(weights), torch.tensor([-5000.0, 3000.0 - math.log(2)]))


def test_free_bits_by_hand() -> None:
    """Dimension means are 1.0, 0.2 and 0.5: with 0.3 nats free, only the second is below and costs 0.3."""
    divergence = torch.tensor([[1.5, 0.4, 0.1], [0.5, 0.0, 0.9]], dtype=torch.float64, requires_grad=True)
    charged = with_free_bits(divergence, 0.3)
    torch.testing.assert_close(charged, torch.tensor([1.9, 1.7], dtype=torch.float64))
    assert charged.mean().item() == pytest.approx(1.0 + 0.3 + 0.5)
    (gradient,) = torch.autograd.grad(charged.sum(), divergence)
    assert gradient.tolist() == [[1.0, 0.0, 1.0], [1.0, 0.0, 1.0]]


def test_no_free_bits_change_nothing() -> None:
    divergence = drawn(7, 4).square()
    torch.testing.assert_close(with_free_bits(divergence, 0.0), divergence.sum(1))


def test_active_units_are_those_whose_means_differ() -> None:
    means = torch.stack([torch.zeros(50), torch.full((50,), 9.0), torch.linspace(-1, 1, 50)], 1)
    assert active_units(means) == 1

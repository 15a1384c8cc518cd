"""Posteriors: divergences against torch.distributions, and bounds against an evidence that is known."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from models.variational import importance_weighted, kl_to_standard_normal, log_normal, reparametrize


def normals() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    return mean, 2 * log_variance


def test_kl_is_torchs() -> None:
    mean, log_variance = normals()
    expected = kl_divergence(
        Normal(mean, torch.exp(log_variance / 2)), Normal(torch.zeros_like(mean), torch.ones_like(mean))
    )
    torch.testing.assert_close(kl_to_standard_normal(mean, log_variance), expected, rtol=1e-12, atol=1e-12)


def test_density_is_torchs() -> None:
    mean, log_variance = normals()
    z = mean.flip(0)
    expected = Normal(mean, torch.exp(log_variance / 2)).log_prob(z)
    torch.testing.assert_close(log_normal(z, mean, log_variance), expected, rtol=1e-12, atol=1e-12)


def test_draws_have_the_mean_and_the_variance_and_their_gradients() -> None:
    mean, log_variance = (part.requires_grad_() for part in normals())
    noise = torch.full_like(mean, 2.0)
    z = reparametrize(mean, log_variance, noise)
    torch.testing.assert_close(z, mean + 2 * torch.exp(log_variance / 2), rtol=1e-12, atol=1e-12)
    by_mean, by_log_variance = torch.autograd.grad(z.sum(), (mean, log_variance))
    assert (by_mean == 1).all()
    torch.testing.assert_close(by_log_variance, torch.exp(log_variance / 2), rtol=1e-12, atol=1e-12)


def log_weights(k: int, posterior: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    """(k, N) of the model z ~ N(0, 1), x | z ~ N(z, 1/4), with draws from `posterior`, the same for all x."""
    mean, log_variance = posterior
    noise = torch.randn(k, len(x), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z = reparametrize(mean, log_variance, noise)
    joint = log_normal(z, torch.zeros_like(z), torch.zeros_like(z)) + log_normal(x, z, torch.full_like(z, -math.log(4)))
    return joint - log_normal(z, mean, log_variance)


def test_importance_weights_reach_the_evidence_of_a_linear_gaussian_model() -> None:
    """x ~ N(0, 5/4). With the true posterior every weight is the evidence; with another the bound rises to it."""
    x = torch.tensor([-1.5, 0.2, 0.7], dtype=torch.float64)
    evidence = Normal(torch.zeros_like(x), torch.full_like(x, math.sqrt(1.25))).log_prob(x)

    true = x * 0.8, torch.full_like(x, math.log(0.2))
    torch.testing.assert_close(importance_weighted(log_weights(1, true, x)), evidence, rtol=1e-12, atol=1e-12)

    wide = 0.5 * x, torch.full_like(x, math.log(0.5))
    torch.testing.assert_close(importance_weighted(log_weights(400_000, wide, x)), evidence, rtol=0, atol=5e-3)
    elbo = log_weights(400_000, wide, x).mean(0)
    variance, shift = 0.2, 0.3 * x
    gap = 0.5 * (0.5 / variance + shift.square() / variance - 1 - math.log(0.5 / variance))  # KL(q || true posterior)
    torch.testing.assert_close(elbo, evidence - gap, rtol=0, atol=1e-2)
    assert (gap > 0.25).all()


def test_a_bound_of_many_weights_does_not_overflow() -> None:
    weights = torch.tensor([[-5000.0], [-5001.0]])
    assert importance_weighted(weights).item() == pytest.approx(-5000 + math.log((1 + math.exp(-1)) / 2))

"""What models with an approximate posterior N(mean, diag exp(log_variance)) share."""

import math

import torch
from torch import Tensor


def reparametrize(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """A draw from N(mean, exp(log_variance)), differentiable by both (Kingma & Welling 2014, section 2.4).

    Args:
        mean: any shape.
        log_variance: likewise.
        noise: standard normal.
    """
    return mean + torch.exp(0.5 * log_variance) * noise


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) in nats, one value an element (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def log_normal(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """The log-density of N(mean, exp(log_variance)) at z in nats, one value an element."""
    return -0.5 * ((z - mean).square() * torch.exp(-log_variance) + log_variance + math.log(2 * math.pi))


def importance_weighted(log_weights: Tensor) -> Tensor:
    """log of the mean of k importance weights: in expectation a lower bound of log p(x), tighter the larger k is.

    Burda, Grosse & Salakhutdinov 2016, eq. 8; k = 1 is the evidence lower bound.

    Args:
        log_weights: (k, N), log p(x, z) - log q(z | x) of z drawn from q.

    Returns:
        (N,).
    """
    return torch.logsumexp(log_weights, dim=0) - math.log(len(log_weights))

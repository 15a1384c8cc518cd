"""The mathematics of variational autoencoders: divergences from the prior, bounds on the evidence, free bits."""

import math

import torch
from torch import Tensor


def divergence_from_prior(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) ‖ N(0, 1)) of each element, in nats (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def reparametrize(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """A sample from N(mean, variance), differentiable by both (Kingma & Welling 2014, section 2.4).

    All have one shape; the noise is standard normal.
    """
    return mean + torch.exp(0.5 * log_variance) * noise


def normal_log_density(z: Tensor, mean: Tensor | float = 0.0, log_variance: Tensor | float = 0.0) -> Tensor:
    """log N(z; mean, variance) of each element, in nats; by default the standard normal's."""
    log_variance = torch.as_tensor(log_variance, dtype=z.dtype, device=z.device)
    return -0.5 * ((z - mean).square() * torch.exp(-log_variance) + log_variance + math.log(2 * math.pi))


def importance_bound(log_weights: Tensor) -> Tensor:
    """A lower bound on log p(x), (N,), from k latents: log (1/k) sum_i p(x, z_i) / q(z_i | x).

    Burda, Grosse & Salakhutdinov 2016, equation 8. The log-weights (k, N) are log p(x, z_i) - log q(z_i | x), with z_i
    drawn from q(z | x). With one latent it is an unbiased estimate of the evidence lower bound. Its expectation never
    decreases with k, and converges to log p(x).
    """
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))


def with_free_bits(divergence: Tensor, free_nats: float) -> Tensor:
    """The divergence (N,) of samples, from that of each dimension (N, dimensions), where `free_nats` cost nothing.

    Its mean is sum_j max(free_nats, mean over the batch of KL_j): Kingma et al. 2016, equation 15, with one dimension
    per group. A dimension below the limit has no gradient; 0 changes nothing.
    """
    paid = divergence.mean(0) > free_nats
    return torch.where(paid, divergence, free_nats).sum(1)


def active_units(means: Tensor, least: float = 0.01) -> Tensor:
    """How many latent dimensions the encoder uses (Burda, Grosse & Salakhutdinov 2016, section 5.2).

    These are the dimensions whose posterior means, (N, dimensions), have a variance above `least` within the batch.
    """
    return (means.var(0, correction=0) > least).sum().to(means.dtype)

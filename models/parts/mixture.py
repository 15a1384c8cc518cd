"""Mixtures of discretised logistics over the bytes of a pixel (Salimans et al. 2017, section 2.1 and 2.2).

A pixel's channels are drawn one after another. In each mixture component, the mean of a channel is shifted linearly by
the values of the earlier channels, so that few numbers per pixel describe correlated colours. A vector of parameters
holds, for K components and C channels: K logits, then for each component C means, C log-scales and C (C - 1) / 2
coefficients, (green by red), (blue by red), (blue by green).
"""

import torch
from torch import Tensor

from media.pictures import from_levels, to_levels
from models.parts.layers import at_least_float32
from models.parts.output_distributions import logistic
from models.parts.tokens import chosen

LEAST_LOG_SCALE = -7.0
"""Of a component, which is then far narrower than a byte's bin (the authors' code)."""


def parameters_needed(mixtures: int, channels: int) -> int:
    """The length of a pixel's vector of parameters."""
    return mixtures * (1 + 2 * channels + channels * (channels - 1) // 2)


def parted(parameters: Tensor, channels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Parameters (..., P), in float32 at least, split into logits (..., K), means and log-scales (..., K, C), and
    coefficients in -1 to 1, (..., K, C (C - 1) / 2).
    """
    parameters = at_least_float32(parameters)
    pairs = channels * (channels - 1) // 2
    mixtures = parameters.shape[-1] // (1 + 2 * channels + pairs)
    logits, rest = parameters.split([mixtures, parameters.shape[-1] - mixtures], dim=-1)
    means, log_scales, coefficients = rest.unflatten(-1, (mixtures, -1)).split([channels, channels, pairs], dim=-1)
    return logits, means, log_scales.clamp(min=LEAST_LOG_SCALE), coefficients.tanh()


def moved(mean: Tensor, coefficients: Tensor, before: Tensor) -> Tensor:
    """The mean (..., K) of the next channel given the values of the earlier ones (Salimans et al. 2017, eq. 3).

    `coefficients` (..., K, pairs) are those of all channels; the first c channels' values, `before` (..., c), broadcast
    with the means.
    """
    channel = before.shape[-1]
    first = channel * (channel - 1) // 2
    return mean + (coefficients[..., first : first + channel] * before[..., None, :]).sum(-1)


def log_probability(x: Tensor, parameters: Tensor) -> Tensor:
    """The log-probability (...), in nats, of pixels (..., C), values of bytes in [-1, 1], by parameters (..., P)."""
    channels = x.shape[-1]
    logits, means, log_scales, coefficients = parted(parameters, channels)
    found = logits.log_softmax(-1)
    x = x.to(logits)
    for channel in range(channels):
        mean = moved(means[..., channel], coefficients, x[..., :channel])
        found = found + logistic(x[..., channel, None], mean, log_scales[..., channel])
    return found.logsumexp(-1)


def drawn(parameters: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
    """Pixels (..., C), values of bytes in [-1, 1], drawn from exactly the probabilities of `log_probability`.

    The uniform numbers (..., 1 + C), in [0, 1), are for the component and each channel. The temperature, above 0,
    divides the components' logits and multiplies their scales. The authors pass values that are not rounded to bytes on
    to the next channel and pixel; training never sees such values.
    """
    channels = uniforms.shape[-1] - 1
    logits, means, log_scales, coefficients = parted(parameters, channels)
    component = chosen(logits / temperature, uniforms[..., 0])[..., None, None]
    means, log_scales, coefficients = (
        values.gather(-2, component.expand(*component.shape[:-1], values.shape[-1]))
        for values in (means, log_scales, coefficients)
    )
    x = means.new_empty(*means.shape[:-2], 0)
    for channel in range(channels):
        mean = moved(means[..., channel], coefficients, x)[..., 0]
        scale = log_scales[..., 0, channel].exp() * temperature
        value = mean + scale * uniforms[..., 1 + channel].to(mean).logit()
        # A byte's bin is what rounds to it; the outer two extend to infinity.
        byte = to_levels(value.clamp(-1, 1))
        x = torch.cat([x, from_levels(byte).to(mean)[..., None]], dim=-1)
    return x

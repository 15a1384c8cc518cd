"""StyleGAN2's operations as functions of plain torch operations, which can be differentiated any number of times.

They run wherever torch does, in any floating-point format and memory layout; nothing is compiled. FIR filters are
called `resample_filter`: (k,) for a separable filter, (height, width) otherwise.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

SEPARATE_FROM = 8
"""Taps from which a separable filter runs along each axis separately; with fewer, one pass over both is faster."""


RESAMPLE_TAPS = (1, 3, 3, 1)
"""StyleGAN2's resample filter along each axis, before normalisation; R3GAN's too."""


def low_pass(*taps: float) -> Tensor:
    """The separable filter with these taps, normalised to keep a constant, (k,) float32."""
    filtered = torch.tensor(taps, dtype=torch.float32)
    return filtered / filtered.sum()


def upfirdn2d(
    x: Tensor,
    resample_filter: Tensor,
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    gain: float = 1.0,
) -> Tensor:
    """Inserts zeros, pads, filters, and keeps every `down`-th pixel, of each channel and axis.

    Each pixel of (N, C, H, W) is followed by up - 1 zeros to the right and below. `padding` adds zeros at the left,
    right, top and bottom of the enlarged picture; negative numbers crop. The filter is convolved, as in scipy's
    upfirdn, not correlated, and lies within the padded picture: (H * up + top + bottom - height) // down + 1 rows. The
    result is multiplied by `gain`.
    """
    left, right, top, bottom = padding
    if resample_filter.ndim == 2:
        return _filtered(x, resample_filter * gain, (up, up), (down, down), padding)
    if len(resample_filter) < SEPARATE_FROM:
        return _filtered(x, torch.outer(resample_filter, resample_filter) * gain, (up, up), (down, down), padding)
    x = _filtered(x, resample_filter[None, :] * gain, (1, up), (1, down), (left, right, 0, 0))
    return _filtered(x, resample_filter[:, None], (up, 1), (down, 1), (0, 0, top, bottom))


def _filtered(
    x: Tensor, kernel: Tensor, up: tuple[int, int], down: tuple[int, int], padding: tuple[int, int, int, int]
) -> Tensor:
    """`upfirdn2d` with one kernel (height, width), and factors for rows and columns."""
    channels, (height, width) = x.shape[1], kernel.shape
    left, right, top, bottom = padding
    if x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float16) and (up, down) != ((1, 1), (1, 1)):
        # In 16 bits on CPUs, torch has no fast transposed convolution channel by channel and with strides, nor a fast
        # backward pass, which is one (forty times slower than this, measured).
        return _filtered(spread(x, up), kernel, (1, 1), (1, 1), padding)[:, :, :: down[0], :: down[1]]
    if up == (1, 1):
        if left == right >= 0 and top == bottom >= 0:
            inner = (top, left)
        else:
            x, inner = F.pad(x, padding), (0, 0)
        mirrored = kernel.flip(0, 1).to(x.dtype).expand(channels, 1, -1, -1)  # torch's convolutions correlate
        return F.conv2d(x, mirrored, stride=down, padding=inner, groups=channels)
    # A transposed convolution inserts the zeros and filters at once. Its result is that of a picture padded with
    # height - 1 and width - 1 zeros all around, minus the zeros that follow the last pixel.
    left, right, top, bottom = left - width + 1, right - width + up[1], top - height + 1, bottom - height + up[0]
    if left == right <= 0 and top == bottom <= 0:
        inner = (-top, -left)
        left = right = top = bottom = 0
    else:
        inner = (0, 0)
    weight = kernel.to(x.dtype).expand(channels, 1, -1, -1)
    x = F.conv_transpose2d(x, weight, stride=up, padding=inner, groups=channels)
    if left or right or top or bottom:
        x = F.pad(x, (left, right, top, bottom))
    return x if down == (1, 1) else x[:, :, :: down[0], :: down[1]]


def spread(x: Tensor, factors: tuple[int, int]) -> Tensor:
    """Pictures (N, C, H, W) with zeros after each pixel, (N, C, H * rows, W * columns)."""
    rows, columns = factors
    if factors == (1, 1):
        return x
    last = x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    shape = (*x.shape[:2], x.shape[2] * rows, x.shape[3] * columns)
    zeros = torch.zeros(shape, dtype=x.dtype, device=x.device).contiguous(memory_format=layout)
    zeros[:, :, ::rows, ::columns] = x
    return zeros


def upsample2d(x: Tensor, resample_filter: Tensor, factor: int = 2) -> Tensor:
    """Pictures (N, C, H, W) enlarged to (N, C, H * factor, W * factor); constants keep their value."""
    before, after = (len(resample_filter) + factor - 1) // 2, (len(resample_filter) - factor) // 2
    return upfirdn2d(x, resample_filter, up=factor, padding=(before, after, before, after), gain=factor**2)


def downsample2d(x: Tensor, resample_filter: Tensor, factor: int = 2) -> Tensor:
    """Pictures (N, C, H, W) shrunk to (N, C, H / factor, W / factor)."""
    before, after = (len(resample_filter) - factor + 1) // 2, (len(resample_filter) - factor) // 2
    return upfirdn2d(x, resample_filter, down=factor, padding=(before, after, before, after))


def resampled_conv2d(
    x: Tensor, weight: Tensor, resample_filter: Tensor | None = None, up: int = 1, down: int = 1, groups: int = 1
) -> Tensor:
    """A convolution that upsamples, with a low-pass filter after it, or downsamples, with one before it; zero padding.

    Downsampling filters before pixels are dropped, upsampling after zeros are inserted (Karras et al. 2020, appendix B;
    Zhang 2019). Like torch's own, it correlates at the same size and when downsampling, and convolves when upsampling.

    x is (N, C, H, W), with H and W multiples of `down`, and weight (outputs, C / groups, k, k), k odd, which gives
    (N, outputs, H * up / down, W * up / down). At most one of `up` and `down` is above 1, and then needs a filter.
    """
    kernel = weight.shape[-1]
    pad = kernel // 2
    if up == 1 and down == 1:
        return F.conv2d(x, weight, padding=pad, groups=groups)
    if resample_filter is None:
        raise ValueError("a convolution that changes the size needs a resample_filter")
    if up > 1 and down > 1:
        raise ValueError(f"a convolution enlarges or shrinks, not both: up {up}, down {down}")
    length = len(resample_filter)
    if down > 1:
        before, after = (length - down + 1) // 2, (length - down) // 2
        if kernel == 1:  # commutes with dropping pixels, and is cheaper on the remaining ones
            x = upfirdn2d(x, resample_filter, down=down, padding=(before, after, before, after))
            return F.conv2d(x, weight, groups=groups)
        padding = (before + pad, after + pad, before + pad, after + pad)
        return F.conv2d(upfirdn2d(x, resample_filter, padding=padding), weight, stride=down, groups=groups)
    # (groups * outputs, inputs, k, k) to (groups * inputs, outputs, k, k), as transposed convolutions have them.
    transposed = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    x = F.conv_transpose2d(x, transposed, stride=up, groups=groups)
    # The transposed convolution already pads k - 1 zeros, as in `_filtered`.
    before, after = (length + up - 1) // 2 + pad - (kernel - 1), (length - up) // 2 + pad - (kernel - up)
    return upfirdn2d(x, resample_filter, padding=(before, after, before, after), gain=up**2)


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    activation: Literal["linear", "lrelu"] = "linear",
    gain: float = 1.0,
    clamp: float | None = None,
) -> Tensor:
    """Adds a bias (C,) to (N, C, ...), activates, multiplies by a gain, and clamps to +-clamp.

    "lrelu" is a leaky ReLU of slope 0.2 times sqrt(2), which keeps the variance (He et al. 2015, eq. 10, nearly).
    """
    if bias is not None:
        x = x + bias.to(x.dtype).view(-1, *[1] * (x.ndim - 2))
    if activation == "lrelu":
        x, gain = F.leaky_relu(x, 0.2), gain * math.sqrt(2)
    if gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def demodulation(weight: Tensor, styles: Tensor, eps: float = 1e-8) -> Tensor:
    """1 / sqrt(sum over inputs and places of (style * weight)^2), (N, outputs) (Karras et al. 2020, eq. 3)."""
    return torch.rsqrt(styles.square() @ weight.square().sum((2, 3)).T + eps)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    resample_filter: Tensor | None = None,
    up: int = 1,
    demodulate: bool = True,
    grouped: bool = False,
) -> Tensor:
    """A convolution whose weights are scaled by each sample's styles (Karras et al. 2020, eq. 1 and 3).

    x is (N, inputs, H, W), weight (outputs, inputs, k, k), k odd, styles (N, inputs), and the result (N, outputs,
    H * up, W * up); `up` above 1 needs a filter. With `demodulate`, each output's weights are normalised, so that
    inputs of unit variance give outputs of unit variance.

    Scaling a sample's weights per input equals scaling its inputs, and demodulating them per output equals scaling its
    outputs, so one convolution with shared weights serves all samples. `grouped` convolves each sample with its own
    weights instead; the results are the same. Weights and styles are float32 even for an `x` of 16 bits.
    """
    if demodulate and x.dtype == torch.float16:
        # Demodulation undoes any scale; with this one nothing in between leaves fp16's range.
        fan_in = weight[0].numel()
        weight = weight / (weight.abs().amax((1, 2, 3), keepdim=True) * math.sqrt(fan_in))
        styles = styles / styles.abs().amax(1, keepdim=True)
    scale = demodulation(weight, styles) if demodulate else None
    if grouped:
        own = weight * styles[:, None, :, None, None]
        if scale is not None:
            own = own * scale[:, :, None, None, None]
        joint = x.reshape(1, -1, *x.shape[2:])
        joint = resampled_conv2d(joint, own.flatten(0, 1).to(x.dtype), resample_filter, up, groups=len(x))
        return joint.reshape(len(x), -1, *joint.shape[2:])
    x = resampled_conv2d(x * styles[:, :, None, None].to(x.dtype), weight.to(x.dtype), resample_filter, up)
    return x if scale is None else x * scale[:, :, None, None].to(x.dtype)

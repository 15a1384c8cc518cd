"""StyleGAN2's operations: against loops and scipy, closed identities, and gradients of the first and second order."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from models.parts.ops import (
    bias_act,
    demodulation,
    downsample2d,
    low_pass,
    modulated_conv2d,
    resampled_conv2d,
    upfirdn2d,
    upsample2d,
)

DOUBLE = torch.float64


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def taps(dtype: torch.dtype = DOUBLE) -> Tensor:
    return low_pass(1, 3, 3, 1).to(dtype)


def by_hand(
    x: Tensor, kernel: Tensor, up: int, down: int, padding: tuple[int, int, int, int], gain: float = 1.0
) -> Tensor:
    """The definition, pixel by pixel."""
    left, right, top, bottom = padding
    rows, columns = x.shape[2] * up + top + bottom, x.shape[3] * up + left + right
    padded = torch.zeros(*x.shape[:2], rows, columns, dtype=x.dtype)
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            if 0 <= i * up + top < rows and 0 <= j * up + left < columns:
                padded[:, :, i * up + top, j * up + left] = x[:, :, i, j]
    height, width = kernel.shape
    out = torch.zeros(*x.shape[:2], (rows - height) // down + 1, (columns - width) // down + 1, dtype=x.dtype)
    for i in range(out.shape[2]):
        for j in range(out.shape[3]):
            window = padded[:, :, i * down : i * down + height, j * down : j * down + width]
            out[:, :, i, j] = (window * kernel.flip(0, 1)).sum((2, 3)) * gain
    return out


# upfirdn2d.

PADDINGS = [(0, 0, 0, 0), (2, 1, 2, 1), (3, 0, 1, 2), (-1, 2, 0, -1), (5, 5, 4, 4), (1, 1, 1, 1)]


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (2, 3), (3, 2)])
def test_upfirdn2d_is_its_definition(up: int, down: int, padding: tuple[int, int, int, int]) -> None:
    x, kernel = noise(2, 3, 5, 6), noise(4, 3, seed=1)
    out = upfirdn2d(x, kernel, up, down, padding, gain=1.5)
    torch.testing.assert_close(out, by_hand(x, kernel, up, down, padding, 1.5), rtol=0, atol=1e-12)


@pytest.mark.parametrize("length", [4, 9])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (3, 2)])
def test_a_separable_filter_is_its_outer_product_in_one_pass_or_two(length: int, up: int, down: int) -> None:
    x, line = noise(2, 3, 6, 7), noise(length, seed=1)
    padding = (length, 3, 2, length)
    separate = upfirdn2d(x, line, up, down, padding, gain=1.5)
    joint = upfirdn2d(x, torch.outer(line, line), up, down, padding, gain=1.5)
    torch.testing.assert_close(separate, joint, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (3, 2), (2, 4)])
def test_rows_are_scipys_upfirdn(up: int, down: int) -> None:
    signal = pytest.importorskip("scipy.signal")
    x, line = noise(1, 1, 1, 20), noise(5, seed=1)
    kernel = line[None, :]
    expected = torch.from_numpy(signal.upfirdn(line.numpy(), x[0, 0, 0].numpy(), up, down))
    # scipy's begins with the first pixel alone under the filter, and ends with the last: no zeros follow that.
    out = upfirdn2d(x, kernel, up, down, (4, 4 - (up - 1), 0, 0))[0, 0, 0]
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (3, 2)])
def test_16_bits_give_the_same_within_rounding(up: int, down: int, dtype: torch.dtype) -> None:
    x = noise(2, 3, 6, 5).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    wide = x.detach().double().requires_grad_()
    out, expected = (upfirdn2d(each, taps(), up, down, (2, 1, 1, 2), gain=1.5) for each in (x, wide))
    torch.testing.assert_close(out.double(), expected, rtol=0.02, atol=0.02)
    assert out.dtype == dtype
    (mine,), (theirs,) = (torch.autograd.grad(each.square().sum(), at) for each, at in ((out, x), (expected, wide)))
    torch.testing.assert_close(mine.double(), theirs, rtol=0.05, atol=0.05)


def test_constants_keep_their_level_away_from_the_border() -> None:
    x = torch.full((1, 2, 8, 8), 3.0, dtype=DOUBLE)
    for out in (upsample2d(x, taps()), downsample2d(x, taps())):
        torch.testing.assert_close(out[:, :, 1:-1, 1:-1], torch.full_like(out[:, :, 1:-1, 1:-1], 3), rtol=0, atol=1e-7)
    assert upsample2d(x, taps()).shape[2:] == (16, 16)
    assert downsample2d(x, taps()).shape[2:] == (4, 4)


def test_enlarging_by_1331_interpolates_at_quarters() -> None:
    """Each new pixel lies a quarter of the way to the next old one."""
    x = torch.arange(6.0, dtype=DOUBLE).expand(1, 1, 6, 6)
    out = upsample2d(x, taps())[0, 0, 5]
    torch.testing.assert_close(out[1:-1], torch.arange(0.25, 5, 0.5, dtype=DOUBLE), rtol=0, atol=1e-7)
    bilinear = F.interpolate(noise(1, 2, 6, 6), scale_factor=2, mode="bilinear")
    ours = upsample2d(noise(1, 2, 6, 6), taps())
    torch.testing.assert_close(ours[:, :, 1:-1, 1:-1], bilinear[:, :, 1:-1, 1:-1], rtol=0, atol=1e-6)


def test_shrinking_is_the_transpose_of_enlarging() -> None:
    """<up(x), y> = 4 <x, down(y)>: the filter is symmetric, and the gain is 4."""
    x, y = noise(2, 3, 5, 5), noise(2, 3, 10, 10, seed=1)
    left = (upsample2d(x, taps()) * y).sum()
    torch.testing.assert_close(left, 4 * (x * downsample2d(y, taps())).sum(), rtol=1e-12, atol=0)


# Convolutions that change the size.


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_resampled_convolution_is_its_parts(kernel: int) -> None:
    x, weight = noise(2, 3, 8, 8), noise(4, 3, kernel, kernel, seed=1)
    pad = kernel // 2
    lowered = upfirdn2d(x, taps(), padding=(1 + pad, 1 + pad, 1 + pad, 1 + pad))
    expected = F.conv2d(lowered, weight)[:, :, ::2, ::2]
    torch.testing.assert_close(resampled_conv2d(x, weight, taps(), down=2), expected, rtol=0, atol=1e-12)
    raised = upfirdn2d(x, taps(), up=2, padding=(2 + pad, 1 + pad, 2 + pad, 1 + pad), gain=4)
    expected = F.conv2d(raised, weight.flip(2, 3))
    torch.testing.assert_close(resampled_conv2d(x, weight, taps(), up=2), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        resampled_conv2d(x, weight), F.conv2d(x, weight, padding="same"), rtol=0, atol=1e-12
    )  # fmt: skip


def test_what_a_resampled_convolution_cannot_do_is_an_error() -> None:
    x, weight = noise(1, 1, 4, 4), noise(1, 1, 3, 3)
    with pytest.raises(ValueError, match="needs a resample_filter"):
        resampled_conv2d(x, weight, up=2)
    with pytest.raises(ValueError, match="not both: up 2, down 2"):
        resampled_conv2d(x, weight, taps(), up=2, down=2)


# Bias and activation.


def test_bias_act_by_hand() -> None:
    x = torch.tensor([[-1.0, 2.0], [0.5, -4.0]])
    bias = torch.tensor([1.0, -1.0])
    expected = torch.tensor([[0.0, 1.0], [1.5, 0.2 * -5]]) * math.sqrt(2) * 3
    torch.testing.assert_close(bias_act(x, bias, "lrelu", gain=3), expected)
    torch.testing.assert_close(bias_act(x, bias, "lrelu", gain=3, clamp=2), expected.clamp(-2, 2))
    assert torch.equal(bias_act(x, bias), x + bias)
    assert torch.equal(bias_act(x), x)
    pictures = noise(2, 2, 3, 3)
    assert torch.equal(bias_act(pictures, bias.double()), pictures + bias.double()[:, None, None])
    assert x[0, 0] == -1  # nothing is done in place


# Modulated convolution.


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
def test_both_forms_are_each_samples_own_convolution(kernel: int, demodulate: bool, up: int) -> None:
    x, weight, styles = noise(3, 4, 6, 6), noise(5, 4, kernel, kernel, seed=1), noise(3, 4, seed=2)
    forms = [modulated_conv2d(x, weight, styles, taps(), up, demodulate, grouped) for grouped in (False, True)]
    for i in range(3):
        own = weight * styles[i, None, :, None, None]
        if demodulate:
            own = own / (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        expected = resampled_conv2d(x[i : i + 1], own, taps(), up)
        for form in forms:
            torch.testing.assert_close(form[i : i + 1], expected, rtol=0, atol=1e-11)


def test_demodulation_brings_unit_variance() -> None:
    """Whatever the styles, inputs of unit variance come out so (Karras et al. 2020, eq. 2 and 3)."""
    weight, styles = noise(6, 8, 3, 3, seed=1), 10 * noise(2, 8, seed=2).exp()
    norm = (weight * styles[:, None, :, None, None]).square().sum((2, 3, 4)) * demodulation(weight, styles).square()
    torch.testing.assert_close(norm, torch.ones_like(norm), rtol=1e-9, atol=0)
    out = modulated_conv2d(noise(2, 8, 100, 100), weight, styles)[:, :, 1:-1, 1:-1]
    assert ((out.var((2, 3)) - 1).abs() < 0.1).all()
    torch.testing.assert_close(out, modulated_conv2d(noise(2, 8, 100, 100), weight, 7 * styles)[:, :, 1:-1, 1:-1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("grouped", [False, True])
def test_16_bits_come_near_and_do_not_overflow(dtype: torch.dtype, grouped: bool) -> None:
    x, weight, styles = noise(2, 64, 8, 8), 40 * noise(8, 64, 3, 3, seed=1), 900 * noise(2, 64, seed=2)
    expected = modulated_conv2d(x, weight, styles, taps(), up=2)
    out = modulated_conv2d(x.to(dtype), weight.float(), styles.float(), taps(), 2, grouped=grouped)
    assert out.dtype == dtype
    error = (out.double() - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert error < (0.01 if dtype == torch.bfloat16 else 0.002)


@pytest.mark.parametrize("up", [1, 2])
def test_channels_last_in_gives_the_same_and_channels_last_out(up: int) -> None:
    x, weight, styles = noise(2, 8, 6, 6), noise(4, 8, 3, 3, seed=1), noise(2, 8, seed=2)
    out = modulated_conv2d(x, weight, styles, taps(), up)
    last = modulated_conv2d(x.contiguous(memory_format=torch.channels_last), weight, styles, taps(), up)
    torch.testing.assert_close(last, out, rtol=0, atol=1e-12)
    assert last.is_contiguous(memory_format=torch.channels_last)


# Gradients, twice.


def inputs(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    return tuple(noise(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes))


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
def test_gradients_of_upfirdn2d(up: int, down: int) -> None:
    def op(x: Tensor) -> Tensor:
        return upfirdn2d(x, taps(), up, down, (2, 1, 1, 2)).square()

    assert gradcheck(op, inputs((1, 2, 3, 3)))
    assert gradgradcheck(op, inputs((1, 2, 3, 3)))


def test_gradients_of_bias_act() -> None:
    def op(x: Tensor, bias: Tensor) -> Tensor:
        return bias_act(x, bias, "lrelu", 0.5, clamp=0.7).square()

    assert gradcheck(op, inputs((2, 3, 2, 2), (3,)))
    assert gradgradcheck(op, inputs((2, 3, 2, 2), (3,)))


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("up", [1, 2])
def test_gradients_of_modulated_convolution(up: int, grouped: bool) -> None:
    def op(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
        return modulated_conv2d(x, weight, styles, taps(), up, True, grouped)

    shapes = ((2, 2, 3, 3), (2, 2, 3, 3), (2, 2))
    assert gradcheck(op, inputs(*shapes))
    assert gradgradcheck(op, inputs(*shapes))


def test_gradients_of_a_shrinking_convolution() -> None:
    def op(x: Tensor, weight: Tensor) -> Tensor:
        return resampled_conv2d(x, weight, taps(), down=2)

    assert gradcheck(op, inputs((1, 2, 4, 4), (2, 2, 3, 3)))
    assert gradgradcheck(op, inputs((1, 2, 4, 4), (2, 2, 3, 3)))

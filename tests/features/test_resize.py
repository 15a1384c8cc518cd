import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from features.resize import Filter, resized

# Height, width, side: up, down, both at once, odd ratios, a single pixel.
SIZES = [
    (32, 32, 299),
    (64, 48, 299),
    (128, 200, 64),
    (299, 100, 299),
    (512, 300, 299),
    (1, 1, 8),
    (2, 3, 7),
    (700, 9, 32),
]

ROUNDING = 2e-3
"""Grey levels. From 700 pixels to 32, 88 products are added in float32, in whatever order a processor's kernels choose:
that may be 88 · 2⁻²⁴ · 255 · 1.3 off. Weights computed in float32 would be 0.007 off, and another filter far more."""


def pictures(height: int, width: int, count: int = 2, channels: int = 3) -> Tensor:
    """Noise at the left, and black and white at the right, where bicubic overshoots most."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (count, channels, height, width), generator=generator, dtype=torch.uint8)
    noise[..., width // 2 :] = torch.where(noise[..., width // 2 :] > 127, 255, 0)
    return noise


def pillow(x: Tensor, side: int) -> Tensor:
    """Pillow's bicubic of each channel in floating point."""
    channels = [Image.fromarray(channel.float().numpy()) for channel in x.flatten(0, 1)]
    outputs = [np.asarray(channel.resize((side, side), Image.Resampling.BICUBIC)) for channel in channels]
    return torch.from_numpy(np.stack(outputs)).clamp(0, 255).unflatten(0, x.shape[:2])


@pytest.mark.parametrize(("height", "width", "side"), SIZES)
def test_bicubic_is_pillows(height: int, width: int, side: int) -> None:
    x = pictures(height, width)
    y = resized(x, side, "bicubic")
    assert y.dtype == torch.float32
    assert y.shape == (2, 3, side, side)
    torch.testing.assert_close(y, pillow(x, side), rtol=0, atol=ROUNDING)


def test_bicubic_is_clean_fids() -> None:
    resize = pytest.importorskip("cleanfid.resize", reason="clean-fid, whose filter this is, is not installed")
    x = pictures(47, 80, count=1)
    theirs = resize.build_resizer("clean")(x[0].permute(1, 2, 0).numpy())
    ours = resized(x, 299, "bicubic")[0].permute(1, 2, 0)
    torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=0, atol=ROUNDING)


def test_bicubic_is_not_rounded_to_bytes_and_keeps_constants() -> None:
    y = resized(pictures(20, 20), 33, "bicubic")
    assert not torch.equal(y, y.round())
    flat = torch.full((1, 1, 9, 13), 77, dtype=torch.uint8)
    torch.testing.assert_close(resized(flat, 32, "bicubic"), torch.full((1, 1, 32, 32), 77.0), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("height", "width", "side"), SIZES)
def test_tf1_bilinear_is_torch_fidelitys_to_the_last_bit(height: int, width: int, side: int) -> None:
    """Single additions and products, which round alike on every processor: there is no sum whose order is free."""
    compat = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow", reason="torch-fidelity is missing")
    x = pictures(height, width)
    theirs = compat.interpolate_bilinear_2d_like_tensorflow1x(x.float(), size=(side, side), align_corners=False)
    assert torch.equal(resized(x, side, "tf1-bilinear"), theirs)


def test_tf1_bilinear_starts_at_the_first_pixel_and_repeats_the_last() -> None:
    """Output i lies at i·size/side: no half-pixel centres; nothing is averaged on the way down."""
    x = torch.tensor([[[[0, 100], [20, 220]]]], dtype=torch.uint8)
    rows = torch.tensor([[0.0, 50, 100, 100], [10, 85, 160, 160], [20, 120, 220, 220], [20, 120, 220, 220]])
    assert torch.equal(resized(x, 4, "tf1-bilinear")[0, 0], rows)
    stripes = torch.tensor([0, 255], dtype=torch.uint8).repeat(4).expand(1, 1, 8, 8)
    assert torch.equal(resized(stripes, 4, "tf1-bilinear"), torch.zeros(1, 1, 4, 4))


@pytest.mark.parametrize("filter", ["bicubic", "tf1-bilinear"])
def test_values_stay_where_the_side_is_right_and_in_range_elsewhere(filter: Filter) -> None:
    x = pictures(40, 40, channels=1)
    assert torch.equal(resized(x, 40, filter), x.float())
    for side in (1, 13, 41, 200):
        y = resized(x, side, filter)
        assert y.isfinite().all()
        assert float(y.min()) >= 0
        assert float(y.max()) <= 255
    assert resized(x[:0], 13, filter).shape == (0, 1, 13, 13)


@pytest.mark.parametrize("filter", ["bicubic", "tf1-bilinear"])
def test_layout_and_settings_around_change_nothing(filter: Filter) -> None:
    x = pictures(24, 30)
    y = resized(x, 50, filter)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            again = resized(x.contiguous(memory_format=torch.channels_last), 50, filter)
    finally:
        torch.set_float32_matmul_precision(before)
    assert again.dtype == torch.float32
    torch.testing.assert_close(again, y, rtol=0, atol=ROUNDING)  # bfloat16 would be half a level off


def test_what_it_cannot_resize_is_refused() -> None:
    x = pictures(8, 8)
    with pytest.raises(ValueError, match="resize='lanczos': expected one of bicubic, tf1-bilinear"):
        resized(x, 16, "lanczos")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected uint8 .* got torch\.float32 of \(2, 3, 8, 8\)"):
        resized(x.float(), 16, "bicubic")
    with pytest.raises(ValueError, match=r"got torch\.uint8 of \(2, 3, 0, 8\)"):
        resized(x[:, :, :0], 16, "bicubic")
    with pytest.raises(ValueError, match="side=0"):
        resized(x, 0, "bicubic")

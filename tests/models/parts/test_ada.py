"""ADA's changes by hand, its draws, its derivatives, and p that adapts, is saved and resumes."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dcgan import DCGAN
from models.parts.augment.ada import (
    ADA,
    PRESETS,
    SYM2,
    SYM6,
    Preset,
    band_filters,
    brightness,
    coloured,
    contrast,
    cut_out,
    filtered,
    hue,
    luma_flip,
    moved,
    noised,
    rotation,
    sampled,
    saturation,
    scaling,
    shift,
    upsampled,
)
from models.parts.losses import RelativisticPairing
from models.parts.regularizers import R1
from models.parts.schedules import Linear
from models.training.base import Batch
from models.training.checkpoint import read_checkpoint
from models.training.gan import GAN
from settings.configurable import build, describe
from settings.training import AdversarialTraining

Fit = Callable[..., lightning.Trainer]
Toy = Callable[..., GAN]
Batches = Callable[..., list[Batch]]


def pictures(count: int = 2, channels: int = 3, height: int = 8, width: int = 10) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, channels, height, width, dtype=torch.float64, generator=generator)


def smooth(count: int = 2, size: int = 24) -> Tensor:
    """A few slow waves: what no filter of the chain changes by much."""
    place = torch.arange(size, dtype=torch.float64) / size
    waves = [torch.sin(2 * math.pi * (a * place[:, None] + b * place) + a) for a, b in ((1, 0), (1, 1), (0.5, -1))]
    return torch.stack(waves).expand(count, 3, size, size) * torch.linspace(0.5, 1, count).double().view(-1, 1, 1, 1)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def inside(x: Tensor, edge: int) -> Tensor:
    return x[:, :, edge:-edge, edge:-edge]


# The filters.


@pytest.mark.parametrize("taps", [SYM2, SYM6], ids=["sym2", "sym6"])
def test_low_pass_filters_are_orthogonal_to_their_even_shifts(taps: tuple[float, ...]) -> None:
    h = numbers(*taps)
    assert float(h.sum()) == pytest.approx(math.sqrt(2), abs=1e-12)
    for by in range(0, len(h), 2):
        assert float((h[: len(h) - by] * h[by:]).sum()) == pytest.approx(float(by == 0), abs=1e-12)


@pytest.mark.parametrize(("taps", "moments"), [(SYM2, 2), (SYM6, 6)], ids=["sym2", "sym6"])
def test_their_mirrors_ignore_polynomials(taps: tuple[float, ...], moments: int) -> None:
    h = numbers(*taps)
    mirror = h * numbers(1, -1).repeat(len(h) // 2)
    place = torch.linspace(-1, 1, len(h), dtype=torch.float64)
    for power in range(moments):
        assert float((mirror * place**power).sum()) == pytest.approx(0, abs=1e-9)


def test_bands_sum_to_the_signal_and_lie_where_they_should() -> None:
    bands = band_filters()
    assert bands.shape == (4, 43)
    identity = torch.zeros(43, dtype=torch.float64)
    identity[21] = 1
    close(bands.sum(0), identity)
    close(bands, bands.flip(1))  # symmetric: nothing is moved
    gain = torch.fft.rfft(bands, 512).abs()  # frequencies 0 to half a cycle a pixel, in 256 steps
    close(gain[:, 0], numbers(1, 0, 0, 0))
    close(gain[:, -1], numbers(0, 0, 0, 1))
    assert gain.argmax(0)[[4, 22, 48, 96, 200]].tolist() == [0, 0, 1, 2, 3]  # they meet near 1/16, 1/8 and 1/4


@pytest.mark.parametrize("margins", [(0, 0, 0, 0), (1, 4, 7, 2)])
def test_large_pictures_are_upsampled_as_small_ones_are(
    margins: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = pictures()
    small = upsampled(x, *margins)
    h, padded = numbers(*SYM6) * math.sqrt(2), F.pad(x, margins, mode="reflect")
    stuffed = torch.zeros(2, 3, 2 * padded.shape[2], 2 * padded.shape[3], dtype=torch.float64)
    stuffed[:, :, ::2, ::2] = padded
    weight = torch.outer(h, h).flip(0, 1).expand(3, 1, 12, 12)
    close(small, F.conv2d(F.pad(stuffed, (6, 5, 6, 5)), weight, groups=3), 1e-9)
    monkeypatch.setattr("models.parts.augment.ada.LARGEST_BY_MATRICES", 8)  # pixels high, and 10 wide
    close(upsampled(x, *margins), small)


# The changes, their draws given.


def test_nothing_drawn_changes_nothing_to_the_last_bit() -> None:
    x = pictures().float()
    zero, one = torch.zeros(2), torch.ones(2)
    turned = rotation(-zero) @ scaling(one, 1 / one) @ shift(zero, zero)
    mapped = saturation(one) @ hue(zero) @ luma_flip(zero) @ contrast(one) @ brightness(zero)
    assert torch.equal(moved(x, turned), x)
    assert torch.equal(coloured(x, mapped), x)
    assert torch.equal(filtered(x, torch.ones(2, 4)), x)
    assert torch.equal(noised(x, zero), x)
    assert torch.equal(cut_out(x, zero, torch.full((2, 2), 0.5)), x)


def test_a_moved_neighbour_changes_nothing_either() -> None:
    x = pictures()
    result = moved(x, rotation(numbers(0, 0.3)))
    assert torch.equal(result[0], x[0])
    assert not torch.isclose(result[1], x[1]).any()


@pytest.mark.parametrize(("right", "down"), [(1, 0), (0, 2), (-3, 1), (0, -1)])
def test_whole_pixels_are_moved_exactly_and_mirrored_in_at_the_edges(right: int, down: int) -> None:
    x = pictures()
    padded = F.pad(x, (4, 4, 4, 4), mode="reflect")
    expected = padded[:, :, 4 - down : 12 - down, 4 - right : 14 - right]
    result = moved(x, shift(numbers(right, right), numbers(down, down)))
    close(result, expected, 1e-9)


def test_half_a_pixel_twice_is_a_pixel() -> None:
    x = smooth(size=32)
    half = shift(numbers(0.5, 0.5), numbers(-0.5, -0.5))
    close(inside(moved(moved(x, half), half), 6), inside(moved(x, half @ half), 6), 2e-3)


def test_flip_and_quarter_turns_through_the_filters_are_nearly_the_exact_ones() -> None:
    """SYM6's centre of mass lies a tenth of a tap behind its sixth: what is mirrored is off by 0.1 pixels."""
    x = smooth()  # at most 0.26 from one pixel to the next
    ones = numbers(1, 1)
    close(moved(x, scaling(-ones, ones)), x.flip(3), 0.04)
    for turns, axes in ((1, 1), (2, 2), (3, 1)):  # clockwise, as one sees it, which torch counts backwards
        close(moved(x, rotation(ones * turns * math.pi / 2)), x.rot90(-turns, (2, 3)), 0.04 * axes)


def test_oblong_pictures_turn_around_their_middle() -> None:
    x = F.pad(smooth(size=24), (0, -8))  # 24 high, 16 wide
    turned = moved(x, rotation(numbers(math.pi / 2, math.pi / 2)))
    assert turned.shape == x.shape
    middle = x[:, :, 4:20].rot90(-1, (2, 3))
    close(inside(turned[:, :, 4:20], 2), inside(middle, 2), 0.04)


def test_scaling_about_the_centre_by_two_shows_every_place_at_twice_its_distance() -> None:
    size = 32
    place = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) / size

    def wave(factor: float) -> Tensor:
        return torch.cos(3 * place[:, None] / factor + 5 * place / factor).expand(2, 3, size, size)

    close(inside(moved(wave(1), scaling(numbers(2, 2), numbers(2, 2))), 2), inside(wave(2), 2), 0.01)
    stretched = torch.cos(3 * place[:, None] * 2 + 5 * place / 2).expand(2, 3, size, size)
    result = moved(wave(1), scaling(numbers(2, 2), numbers(0.5, 0.5)))
    close(result[:, :, 10:-10, 2:-2], stretched[:, :, 10:-10, 2:-2], 0.02)


def test_rotation_there_and_back() -> None:
    x = smooth(size=32)
    angle = numbers(0.4, -1.1)
    middle = moved(moved(x, rotation(angle)), rotation(-angle))
    close(inside(middle, 9), inside(x, 9), 5e-3)


def test_each_picture_has_its_own_draw() -> None:
    x, angle, gains = pictures(3), numbers(0.1, 0.7, 1.3), torch.rand(3, 4).double() + 0.5
    for change, draws in ((moved, rotation(angle)), (coloured, hue(angle)), (filtered, gains)):
        alone = [change(x[i : i + 1], draws[i : i + 1]) for i in range(3)]
        close(change(x, draws), torch.cat(alone), 1e-9)


def test_colours_by_hand() -> None:
    one, half = numbers(1.0), numbers(0.5)
    x = torch.tensor([0.2, -0.4, 0.8], dtype=torch.float64).view(1, 3, 1, 1)

    def after(maps: Tensor) -> Tensor:
        return coloured(x, maps).flatten()

    close(after(brightness(half)), numbers(0.7, 0.1, 1.3))
    close(after(contrast(half)), numbers(0.1, -0.2, 0.4))
    close(after(luma_flip(one)), numbers(0.2 - 0.4, -0.4 - 0.4, 0.8 - 0.4))  # the mean, 0.2, becomes -0.2
    close(after(saturation(half)), numbers(0.2, -0.1, 0.5))  # half as far from the mean
    close(after(saturation(0 * one)), numbers(0.2, 0.2, 0.2))
    close(after(hue(one * 2 * math.pi / 3)), numbers(0.8, 0.2, -0.4))  # a third of a turn: red becomes green
    close(after(hue(one * math.pi)), 0.4 - x.flatten())  # half a turn around 0.2
    close(after(brightness(half) @ contrast(half)), numbers(0.6, 0.3, 0.9))
    close(after(contrast(half) @ brightness(half)), numbers(0.35, 0.05, 0.65))
    close(luma_flip(one) @ luma_flip(one), torch.eye(4, dtype=torch.float64)[None])
    close(hue(one) @ hue(-one), torch.eye(4, dtype=torch.float64)[None])


def test_greys_are_coloured_as_pictures_of_three_equal_channels() -> None:
    grey = pictures(channels=1)
    maps = contrast(numbers(0.5, 2)) @ luma_flip(numbers(1, 0)) @ brightness(numbers(0.3, -0.2))
    close(coloured(grey, maps), coloured(grey.expand(-1, 3, -1, -1), maps)[:, :1])
    close(coloured(grey, luma_flip(numbers(1, 0))), grey * numbers(-1, 1).view(-1, 1, 1, 1))
    with pytest.raises(ValueError, match="1 or 3 channels, not 4"):
        coloured(pictures(channels=4), maps)


def test_filtering_amplifies_bands_along_both_axes() -> None:
    x = torch.full((1, 1, 16, 16), 0.5, dtype=torch.float64)
    close(filtered(x, torch.tensor([[3.0, 5.0, 5.0, 5.0]])), 9 * x)  # flat: the lowest band, along rows and columns
    fine = x * numbers(1, -1).repeat(8)  # columns as fine as they get, rows flat
    close(inside(filtered(fine, torch.tensor([[3.0, 5.0, 5.0, 7.0]])), 1), 21 * inside(fine, 1))


def test_filtering_mirrors_at_the_edges_of_small_pictures_too() -> None:
    x, gains = pictures(height=64, width=64), torch.rand(2, 4).double() + 0.5
    taps = gains @ band_filters()
    padded = F.pad(x, (21, 21, 21, 21), mode="reflect")
    expected = torch.stack([
        F.conv2d(picture[:, None], torch.outer(h, h)[None, None])[:, 0] for picture, h in zip(padded, taps, strict=True)
    ])  # fmt: skip
    close(filtered(x, gains), expected, 1e-9)
    small = pictures(height=4, width=1)
    assert filtered(small, gains).isfinite().all()


def test_noise_has_its_standard_deviation() -> None:
    torch.manual_seed(0)
    noise = noised(torch.zeros(3, 3, 64, 64), torch.tensor([0.0, 0.1, 0.3]))
    assert noise[0].abs().max() == 0
    assert noise.flatten(1).std(1)[1:].tolist() == pytest.approx([0.1, 0.3], rel=0.03)


@pytest.mark.parametrize(
    ("centre", "rows", "columns"),
    [((0.5, 0.5), (2, 6), (4, 12)), ((0.0, 0.25), (0, 4), (0, 4)), ((1.0, 1.0), (6, 8), (12, 16))],
)
def test_cutout_removes_half_the_height_and_half_the_width(
    centre: tuple[float, float], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    x = pictures(1, 3, 8, 16)
    expected = x.clone()
    expected[:, :, slice(*rows), slice(*columns)] = 0
    assert torch.equal(cut_out(x, torch.tensor([0.5]), torch.tensor([centre])), expected)


# Derivatives.


def test_bilinear_samples_are_those_of_grid_sample_and_differentiable_twice() -> None:
    x = pictures(2, 2, 3, 4).requires_grad_()
    grid = torch.rand(2, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 2.4 - 1.2
    assert torch.equal(sampled(x, grid), F.grid_sample(x, grid, align_corners=False))
    (ours,) = torch.autograd.grad(sampled(x, grid).square().sum(), x)
    (torchs,) = torch.autograd.grad(F.grid_sample(x, grid, align_corners=False).square().sum(), x)
    close(ours, torchs)
    assert torch.autograd.gradcheck(lambda x: sampled(x, grid), (x,))
    assert torch.autograd.gradgradcheck(lambda x: sampled(x, grid).square(), (x,))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: moved(x, rotation(numbers(0.5)) @ scaling(numbers(1.2), numbers(0.9)) @ shift(numbers(0.6), 0)),
        lambda x: coloured(x, hue(numbers(1.0)) @ brightness(numbers(0.1))),
        lambda x: filtered(x, torch.tensor([[0.5, 1.0, 2.0, 1.5]])),
        lambda x: cut_out(x, torch.tensor([0.5]), torch.tensor([[0.5, 0.3]])),
    ],
    ids=["geometry", "colour", "filter", "cutout"],
)
def test_gradients_are_those_of_finite_differences_once_and_twice(change: Callable[[Tensor], Tensor]) -> None:
    x = pictures(1, 3, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(change, (x,))
    assert torch.autograd.gradgradcheck(lambda x: change(x).square(), (x,))


def test_the_whole_pipeline_is_differentiable_twice() -> None:
    x = pictures(1, 1, 3, 3).requires_grad_()

    def augmented(x: Tensor) -> Tensor:
        torch.manual_seed(4)
        return ADA("bgcfnc", p=1.0, target=None)(x, 0)

    assert not torch.equal(augmented(x), x)
    assert torch.autograd.gradcheck(augmented, (x,))
    assert torch.autograd.gradgradcheck(lambda x: augmented(x).square(), (x,))


# The draws.


def after(ada: ADA, x: Tensor, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return ada(x, 0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", PRESETS)
def test_at_p_0_pictures_pass_to_the_last_bit_and_at_1_every_one_is_changed(policy: Preset, channels: int) -> None:
    x = pictures(4, channels, 16, 16).float()
    assert torch.equal(after(ADA(policy), x), x)
    changed = after(ADA(policy, p=1.0, target=None), x)
    assert changed.shape == x.shape
    assert changed.isfinite().all()
    if policy != "blit":  # of which a quarter is the identity, were it not for translation
        assert (changed != x).flatten(1).any(1).all()


def test_real_and_fake_with_the_same_draws_are_changed_alike() -> None:
    real, fake = pictures(4, 3, 16, 16), pictures(4, 3, 16, 16).tanh().flip(0)
    ada = ADA("bgcfnc", p=0.8, target=None)
    middle = (after(ada, real) + after(ada, fake)) / 2  # every change is affine, noise included
    close(after(ada, (real + fake) / 2), middle, 1e-9)
    assert not torch.isclose(after(ada, real, seed=1), after(ada, real)).all()


def test_maps_are_drawn_as_published() -> None:
    torch.manual_seed(0)
    count, eye = 4000, torch.eye(3, dtype=torch.float64)

    def moves(change: Any, p: float = 1.0) -> Tensor:  # noqa: ANN401
        return ADA([change]).drawn_moves(count, 16, 32, p)

    assert float(moves("xflip")[:, 0, 0].mean()) == pytest.approx(0, abs=0.05)  # half of them are mirrored
    assert moves("xflip").flatten(1).unique(dim=0).shape == (2, 9)
    assert moves("rotate90").round(decimals=9).flatten(1).unique(dim=0).shape == (4, 9)
    whole = moves("xint")
    assert whole[:, 0, 2].unique().tolist() == list(range(-4, 5))  # an eighth of 32
    assert whole[:, 1, 2].unique().tolist() == list(range(-2, 3))
    assert float(moves("scale")[:, 0, 0].log2().std()) == pytest.approx(0.2, rel=0.05)
    stretched = moves("aniso")
    close(stretched[:, 0, 0] * stretched[:, 1, 1], torch.ones(count).double(), 1e-6)
    fractions = moves("xfrac")[:, :2, 2].std(0)
    assert fractions.tolist() == pytest.approx([4, 2], rel=0.05)
    for p in (0.0, 0.3, 1.0):  # before or after: rotated at all with probability p
        rotated = (moves("rotate", p) != eye).flatten(1).any(1).double()
        assert float(rotated.mean()) == pytest.approx(p, abs=0.03)
    shares = (moves("scale", 0.3) != eye).flatten(1).any(1).double()
    assert float(shares.mean()) == pytest.approx(0.3, abs=0.03)


def test_gains_keep_the_power_of_natural_pictures() -> None:
    torch.manual_seed(0)
    gains = ADA("filter").drawn_gains(1000, 0.3)
    plain = (gains == 1).all(1)
    assert float(plain.double().mean()) == pytest.approx(0.7**4, abs=0.05)
    once = gains[(gains != 1).any(1)][0]
    assert once.shape == (4,)
    power = numbers(10, 1, 1, 1) / 13
    only_one = [gains[i] for i in range(1000) if len(gains[i].unique()) == 2]
    assert len(only_one) > 300
    for found in only_one:
        assert float((power * found.square()).sum()) == pytest.approx(1, abs=1e-6)


def test_grey_pictures_draw_neither_hue_nor_saturation() -> None:
    x = pictures(channels=1)
    assert torch.equal(after(ADA(["hue", "saturation"], p=1.0, target=None), x), x)


@pytest.mark.parametrize("policy", ["bg", "color", "filter", "noise", "cutout"])
def test_memory_layout_changes_nothing_and_is_kept(policy: Preset) -> None:
    x, ada = pictures(4, 3, 16, 16).float(), ADA(policy, p=1.0, target=None)
    results = [after(ada, x.contiguous(memory_format=each)) for each in (torch.contiguous_format, torch.channels_last)]
    if policy != "noise":  # which is drawn in memory's order
        close(results[0], results[1], 1e-5)
    assert results[0].is_contiguous()
    assert results[1].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_work_is_done_in_float32_under_autocast(dtype: torch.dtype) -> None:
    x, ada = pictures(4, 3, 16, 16).to(dtype), ADA("bgcf", p=1.0, target=None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = after(ada, x)
    assert result.dtype == torch.float32
    assert torch.equal(result, after(ada, x.float()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": "bgcx"}, "is one of blit, geom, .* or a list of changes, not 'bgcx'"),
        ({"policy": ["xflip", "yflip"]}, "may hold xflip, .*, not 'yflip'"),
        ({"p": 1.5}, "p of ADA must lie in 0..1, not 1.5"),
        ({"p": Linear(0, 1, 10)}, "set target: null"),
        ({"target": 2.0}, "target of ADA must lie in -1..1"),
        ({"speed_kimg": 0.0}, "speed_kimg of ADA must be positive"),
        ({"interval": 0}, "interval of ADA counts training steps and must be at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ADA(**settings)


def test_a_change_with_a_multiplier_is_made_less_often() -> None:
    ada = ADA(["xflip", "brightness", "rotate"], p=0.8, target=None, multipliers={"brightness": 0.5, "rotate": 0.0})
    torch.manual_seed(0)
    count = 4000
    brighter = (ada.drawn_colours(count, 0.8, grey=False)[:, 0, 3] != 0).double().mean()
    assert abs(brighter - 0.4) < 5 * (0.4 * 0.6 / count) ** 0.5
    maps = ada.drawn_moves(count, 8, 8, 0.8)
    assert not maps[:, 0, 1].any()
    assert abs((maps[:, 0, 0] < 0).double().mean() - 0.4) < 5 * (0.4 * 0.6 / count) ** 0.5  # a flip is half of them


@pytest.mark.parametrize(
    ("multipliers", "message"),
    [
        ({"hue": 0.5}, "'hue' is not among the policy's changes"),
        ({"xflip": 1.5}, "must lie in 0..1, not 1.5 for xflip"),
    ],
)
def test_multipliers_that_make_no_sense_are_errors(multipliers: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ADA(["xflip"], multipliers=multipliers)


def test_a_checkpoint_can_hold_it() -> None:
    for ada in (ADA("bgcf", p=0.1), ADA(["xflip", "cutout"], p=Linear(0, 0.5, 10), target=None)):
        assert describe(build(describe(ada))) == describe(ada)


# p.


def told(ada: ADA, steps: int, logits: Tensor, first: int = 1) -> dict[str, Tensor]:
    """What ADA reports at the end of `steps` training steps with these logits of real pictures."""
    reported: dict[str, Tensor] = {}
    for step in range(first, first + steps):
        ada.judged(logits)
        reported = ada.adapt(step, 0, lambda values: values)
    return reported


def test_p_moves_by_what_was_judged_as_published() -> None:
    ada = ADA(target=0.6, speed_kimg=1.0, interval=4)
    overfits = torch.tensor([3.0] * 9 + [-2.0])  # r_t = 0.8
    assert told(ada, 3, overfits) == {}
    assert ada.p_at(0) == 0
    reported = told(ada, 1, overfits, first=4)
    assert ada.p_at(0) == float(reported["ada_p"].double().round(decimals=6)) == 0.04  # 40 pictures of 1,000
    told(ada, 8, overfits)
    assert ada.p_at(0) == pytest.approx(0.12)
    told(ada, 4, torch.tensor([1.0] * 8 + [-1.0] * 2))  # 0.6 is the target
    assert ada.p_at(0) == pytest.approx(0.12)
    told(ada, 8, torch.tensor([1.0] * 7 + [-1.0] * 3))
    assert ada.p_at(0) == pytest.approx(0.04)
    told(ada, 8, -overfits)
    assert ada.p_at(0) == 0  # and not below


def test_500_kimg_take_p_from_0_to_1() -> None:
    ada = ADA()
    told(ada, 200, torch.ones(2500))
    assert ada.p_at(0) == pytest.approx(1)


def test_a_logit_of_0_is_no_sign_and_the_mean_is_over_all_steps_of_an_interval() -> None:
    ada = ADA(p=0.3, interval=2, speed_kimg=1.0, target=0.5)  # of six logits, four above 0 and one below
    ada.judged(torch.tensor([1.0, 0.0]))
    ada.judged(torch.tensor([1.0, 1.0]))  # a second discriminator step
    assert ada.adapt(1, 0, lambda values: values) == {}
    assert float(told(ada, 1, torch.tensor([-1.0, 1.0]), first=2)["ada_p"]) == pytest.approx(0.3)
    told(ada, 2, torch.tensor([1.0, 1.0, 1.0, -1.0, 0.0]))
    assert ada.p_at(0) == 0.3 - 10 / 1000


def test_all_ranks_adapt_to_the_mean_of_all() -> None:
    logits = [torch.tensor([1.0, 1.0]), torch.tensor([-1.0, -1.0])]
    ranks = [ADA(p=0.5, interval=1, speed_kimg=1.0) for _ in logits]
    joint = sum(torch.tensor([float(each.sign().sum()), 2.0]) for each in logits)
    for ada, mine in zip(ranks, logits, strict=True):
        ada.judged(mine)
        ada.adapt(1, 0, lambda values: joint)  # type: ignore[arg-type, return-value]
    assert [ada.p_at(0) for ada in ranks] == [0.5 - 4 / 1000] * 2


def test_without_a_target_p_is_fixed_or_follows_its_schedule_and_no_logit_is_read() -> None:
    fixed, scheduled = ADA(p=0.3, target=None), ADA(p=Linear(0.0, 1.0, kimg=10), target=None)
    assert told(fixed, 3, torch.ones(10)) == {}
    assert float(told(fixed, 4, torch.ones(10))["ada_p"]) == pytest.approx(0.3)
    assert fixed.state() == {"p": 0.3, "signs": 0.0, "judged": 0.0}
    assert fixed.p_at(0) == fixed.p_at(5000) == 0.3
    assert [scheduled.p_at(seen) for seen in (0, 5000, 20000)] == [0, 0.5, 1]


def test_state_goes_on_in_the_midst_of_an_interval() -> None:
    whole, stopped, resumed = (ADA(interval=4, speed_kimg=1.0, target=0.0) for _ in range(3))
    told(whole, 7, torch.ones(5))
    told(stopped, 5, torch.ones(5))
    resumed.load_state(stopped.state())
    told(resumed, 2, torch.ones(5), first=6)
    for ada in (whole, resumed):
        told(ada, 1, torch.full((5,), -1.0), first=8)
    assert whole.state() == resumed.state() == {"p": pytest.approx(0.04), "signs": 0.0, "judged": 0.0}
    with pytest.raises(ValueError, match="lacks p"):
        resumed.load_state({})


def test_adapting_to_signs_is_refused_where_they_mean_nothing() -> None:
    with pytest.raises(ValueError, match="signs of logits, which have no meaning under RelativisticPairing"):
        DCGAN((1, 16, 16), adversarial=AdversarialTraining(RelativisticPairing(), augmentation=ADA()))
    fixed = AdversarialTraining(RelativisticPairing(), augmentation=ADA(p=0.1, target=None))
    assert DCGAN((1, 16, 16), adversarial=fixed).adversarial is fixed


# In training.


class Reports(lightning.Callback):
    def __init__(self) -> None:
        self.p: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: GAN, *rest: Any) -> None:  # noqa: ANN401
        reported = pl_module.reported()
        if "ada_p" in reported:
            assert reported["r_t"] == 1  # `Certain`
            self.p.append(reported["ada_p"])


class Certain(nn.Module):
    """A discriminator that takes everything for real."""

    def __init__(self, discriminator: nn.Module) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.discriminator(x, labels) * 0 + 1


@pytest.mark.parametrize("settings", [{}, {"d_steps": 2, "accumulate": 2}], ids=["plain", "several"])
def test_p_of_a_fit_rises_with_the_samples_seen(
    settings: dict[str, int], toy_gan: Toy, fit: Fit, batches: Batches
) -> None:
    model = toy_gan(augmentation=ADA(speed_kimg=1.0), **settings)
    model.discriminator = Certain(model.discriminator)
    reports = Reports()
    fit(model, batches(9, 8), callbacks=[reports])
    assert reports.p == pytest.approx([0.032, 0.064])  # 4 and 8 batches of 8


def trained(toy_gan: Toy, fit: Fit, data: list[Batch], **settings: Any) -> tuple[GAN, lightning.Trainer]:  # noqa: ANN401
    # R1 goes through the augmentation too; a target of -1 and a fast p are for few steps.
    ada = ADA("bgcfnc", p=0.3, target=-1.0, speed_kimg=0.2, interval=2)
    model = toy_gan(regularizers=[R1(1.0, every=2)], augmentation=ada)
    torch.manual_seed(len(settings))  # nothing may depend on where the global generator stands
    return model, fit(model, data, **settings)


def test_it_trains_with_a_penalty_and_the_same_each_time(toy_gan: Toy, fit: Fit, batches: Batches) -> None:
    first, again = (trained(toy_gan, fit, batches(3, 8))[0] for _ in range(2))
    plain = toy_gan(regularizers=[R1(1.0, every=2)])
    fit(plain, batches(3, 8))
    for a, b, c in zip(first.parameters(), again.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.isfinite().all()
        assert not torch.equal(a, c)


@pytest.mark.parametrize("stopped", [2, 3])
def test_a_fit_resumes_bit_for_bit(stopped: int, toy_gan: Toy, fit: Fit, batches: Batches, tmp_path: Path) -> None:
    data, path = batches(6, 8), tmp_path / "last.ckpt"
    whole, _ = trained(toy_gan, fit, data)
    trained(toy_gan, fit, data[:stopped])[1].save_checkpoint(path)
    own = read_checkpoint(path)["atelier"]["augmentation"]
    assert own["p"] == pytest.approx(0.3 + 16 / 200)
    assert own["judged"] == 8 * (stopped % 2)
    again = [*data[stopped:], *data[:stopped]]
    resumed, _ = trained(toy_gan, fit, again, ckpt_path=path, max_steps=6, max_epochs=-1)
    assert resumed.samples_seen == 48
    augmentations = [model.adversarial.augmentation for model in (whole, resumed)]
    assert augmentations[0].state() == augmentations[1].state()  # type: ignore[union-attr]
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_the_generator_learns_through_it(toy_gan: Toy) -> None:
    model = toy_gan(augmentation=ADA(p=1.0, target=None))
    labels = torch.zeros(4, dtype=torch.int64)
    fake = model.generator(torch.randn(4, 3), labels)
    model.generator_losses(fake, torch.zeros_like(fake), labels)["generator"].sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.generator.parameters())

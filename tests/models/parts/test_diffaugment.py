"""DiffAugment's changes by hand, and in training."""

from collections.abc import Callable
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor

from models.parts.augment.diffaugment import (
    Change,
    DiffAugment,
    brightened,
    contrasted,
    cut_out,
    saturated,
    translated,
)
from models.parts.regularizers import R1
from models.training.base import Batch
from models.training.gan import GAN
from settings.configurable import build, describe

Fit = Callable[..., lightning.Trainer]
CHANGES: list[Change] = ["colour", "translation", "cutout"]


def pictures(count: int = 3, channels: int = 3, height: int = 4, width: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, channels, height, width, dtype=torch.float64, generator=generator)


def each(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)


# The changes, their draws given.


def test_colour_by_hand() -> None:
    x = torch.tensor([[[[1.0, 3.0]], [[2.0, 5.0]], [[3.0, 1.0]]]])  # one row of two pixels: (1, 2, 3) and (3, 5, 1)
    assert brightened(x, torch.full((1, 1, 1, 1), 0.25)).flatten().tolist() == [1.25, 3.25, 2.25, 5.25, 3.25, 1.25]
    assert saturated(x, torch.full((1, 1, 1, 1), 2.0)).flatten().tolist() == [0.0, 3.0, 2.0, 7.0, 4.0, -1.0]
    assert contrasted(x, torch.full((1, 1, 1, 1), 0.5)).flatten().tolist() == [1.75, 2.75, 2.25, 3.75, 2.75, 1.75]


def test_each_picture_has_its_own_draw() -> None:
    x = pictures()
    for change in (brightened, saturated, contrasted):
        together = change(x, each(0.1, 0.7, 1.3))
        alone = [change(x[i : i + 1], each(value)) for i, value in enumerate((0.1, 0.7, 1.3))]
        assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize(("up", "left"), [(0, 0), (1, 0), (-2, 0), (0, 3), (0, -1), (2, -4), (4, 5), (-9, 9)])
def test_translation_moves_and_fills_with_zeros(up: int, left: int) -> None:
    x = pictures()
    moved = translated(x, torch.full((3,), up), torch.full((3,), left))
    for row in range(4):
        for column in range(5):
            inside = 0 <= row + up < 4 and 0 <= column + left < 5
            expected = x[:, :, row + up, column + left] if inside else torch.zeros(3, 3, dtype=torch.float64)
            assert torch.equal(moved[:, :, row, column], expected)


@pytest.mark.parametrize(
    ("height", "centre", "removed"),
    [(2, 0, [0]), (2, 2, [1, 2]), (2, 4, [3]), (3, 0, [0, 1]), (3, 3, [2, 3]), (1, 2, [2]), (4, 2, [0, 1, 2, 3])],
)
def test_cutout_removes_a_box_around_its_centre(height: int, centre: int, removed: list[int]) -> None:
    x = pictures()
    cut = cut_out(x, torch.full((3,), centre), torch.full((3,), 2), height, 2)  # columns 1 and 2
    expected = x.clone()
    for row in removed:
        expected[:, :, row, 1:3] = 0
    assert torch.equal(cut, expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: brightened(x, each(0.1, -0.3)),
        lambda x: saturated(x, each(0.5, 1.7)),
        lambda x: contrasted(x, each(0.6, 1.4)),
        lambda x: translated(x, torch.tensor([1, -1]), torch.tensor([-2, 1])),
        lambda x: cut_out(x, torch.tensor([1, 2]), torch.tensor([0, 3]), 2, 2),
    ],
    ids=["brightness", "saturation", "contrast", "translation", "cutout"],
)
def test_gradients_are_those_of_finite_differences_once_and_twice(change: Callable[[Tensor], Tensor]) -> None:
    x = pictures(2).requires_grad_()
    assert torch.autograd.gradcheck(change, (x,))
    assert torch.autograd.gradgradcheck(lambda x: change(x).square(), (x,))


# The draws.


def test_draws_stay_within_the_published_ranges_and_fill_them() -> None:
    torch.manual_seed(0)
    x = torch.zeros(4000, 3, 8, 8)
    shift = DiffAugment(["colour"])(x, 0)[:, 0, 0, 0]  # of black pictures only brightness is seen
    assert -0.5 <= shift.min() < -0.49
    assert 0.49 < shift.max() <= 0.5
    x[:, 0, :4], x[:, 1, :4], x[:, 2, :4] = 1.0, 0.0, -1.0  # mean 0 at every pixel and as a whole
    changed = DiffAugment(["colour"])(x, 0)
    factor = (changed[:, 0, 0, 0] - changed[:, 2, 0, 0]) / 2  # saturation times contrast, 0 to 2 times 0.5 to 1.5
    assert 0 <= factor.min() < 0.01
    assert 2.7 < factor.max() <= 3
    assert abs(factor.mean() - 1) < 0.05

    ramp = torch.arange(1.0, 257.0).view(1, 1, 16, 16).expand(4000, 1, 16, 16)
    middle = DiffAugment(["translation"])(ramp, 0)[:, 0, 8, 8] - ramp[:, 0, 8, 8]
    up, left = torch.round(middle / 16), middle - 16 * torch.round(middle / 16)
    assert up.unique().tolist() == left.unique().tolist() == [-2, -1, 0, 1, 2]  # an eighth of 16

    holes = DiffAugment(["cutout"])(torch.ones(4000, 1, 8, 8), 0)[:, 0] == 0
    heights, widths = holes.any(2).sum(1), holes.any(1).sum(1)
    assert heights.unique().tolist() == widths.unique().tolist() == [2, 3, 4]  # half of 8, less at the edges
    assert torch.equal(holes.sum((1, 2)), heights * widths)


def test_changes_follow_the_policy_in_its_order() -> None:
    x = pictures().float()
    steps = [["colour"], ["cutout"], ["translation"]]
    torch.manual_seed(3)
    expected = x
    for policy in steps:
        expected = DiffAugment(policy)(expected, 0)  # type: ignore[arg-type]
    torch.manual_seed(3)
    assert torch.equal(DiffAugment(["colour", "cutout", "translation"])(x, 0), expected)
    torch.manual_seed(3)
    assert not torch.equal(DiffAugment(CHANGES)(x, 0), expected)
    assert DiffAugment([])(x, 0) is x


def test_grey_pictures_have_no_saturation() -> None:
    x = pictures(channels=1)
    torch.testing.assert_close(saturated(x, each(0.0, 1.5, 2.0)), x, rtol=0, atol=0)
    torch.manual_seed(0)
    changed = DiffAugment(["colour"])(x, 0)
    torch.manual_seed(0)
    shift, factor = (torch.rand(3, 1, 1, 1, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(changed, contrasted(brightened(x, shift - 0.5), factor + 0.5), rtol=0, atol=0)


@pytest.mark.parametrize("change", CHANGES)
def test_memory_layout_changes_nothing_and_is_kept(change: Change) -> None:
    x = pictures(4, 3, 8, 8).float()
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(1)
        results.append(DiffAugment([change])(x.contiguous(memory_format=layout), 0))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-6)  # means add up in another order
    assert results[1].is_contiguous(memory_format=torch.channels_last)


def test_a_policy_of_unknown_changes_or_shares_is_an_error() -> None:
    with pytest.raises(ValueError, match="may hold colour, translation and cutout, not 'flip'"):
        DiffAugment(["colour", "flip"])  # type: ignore[list-item]
    for settings in ({"translation": -0.1}, {"cutout": 1.5}):
        with pytest.raises(ValueError, match=f"{next(iter(settings))} of DiffAugment must lie in 0..1"):
            DiffAugment(**settings)  # type: ignore[arg-type]


def test_a_checkpoint_can_hold_it() -> None:
    description = describe(DiffAugment(["cutout"], cutout=0.25))
    assert describe(build(description)) == description


# In training.


def test_it_trains_with_a_penalty_and_the_same_each_time(
    toy_gan: Callable[..., GAN], fit: Fit, batches: Callable[..., list[Batch]]
) -> None:
    def trained(**settings: Any) -> GAN:  # noqa: ANN401
        model = toy_gan(regularizers=[R1(1.0)], **settings)
        torch.manual_seed(len(settings))  # nothing may depend on where the global generator stands
        fit(model, batches(3, 8))
        return model

    first, again, plain = trained(augmentation=DiffAugment()), trained(augmentation=DiffAugment()), trained()
    for a, b, c in zip(first.parameters(), again.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.isfinite().all()
        assert not torch.equal(a, c)

"""DiffAugment (Zhao, Liu, Lin, Zhu & Han 2020): a few random changes to everything that a discriminator sees.

Each change is a plain function of pictures (N, C, H, W) and of random numbers, one per picture.
"""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from models.parts.augment import Augmentation

Change: TypeAlias = Literal["colour", "translation", "cutout"]


def brightened(x: Tensor, shift: Tensor) -> Tensor:
    """Pictures with `shift` (N, 1, 1, 1) added to every value."""
    return x + shift


def saturated(x: Tensor, factor: Tensor) -> Tensor:
    """Pictures whose channels lie `factor` (N, 1, 1, 1) times as far from their mean at each pixel."""
    mean = x.mean(1, keepdim=True)
    return (x - mean) * factor + mean


def contrasted(x: Tensor, factor: Tensor) -> Tensor:
    """Pictures whose values lie `factor` (N, 1, 1, 1) times as far from the picture's mean."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * factor + mean


def translated(x: Tensor, up: Tensor, left: Tensor) -> Tensor:
    """Pictures moved by `up` and `left` pixels, int64 (N,), of either sign; the edges are filled with 0."""
    picture = torch.arange(len(x), device=x.device)[:, None, None]
    rows, inside_rows = _moved(x.shape[2], up)
    columns, inside_columns = _moved(x.shape[3], left)
    # Of (N, H, W, C), which is how channels_last lies in memory, one gather takes whole pixels.
    moved = x.permute(0, 2, 3, 1)[picture, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return moved * (inside_rows[:, None, :, None] & inside_columns[:, None, None, :])


def _moved(size: int, shift: Tensor) -> tuple[Tensor, Tensor]:
    """The place that each place of an axis is read from, (N, size), and whether that lies inside."""
    place = torch.arange(size, device=shift.device) + shift[:, None]
    return place.clamp(0, size - 1), (place >= 0) & (place < size)


def cut_out(x: Tensor, row: Tensor, column: Tensor, height: int, width: int) -> Tensor:
    """Pictures with a box of `height` x `width` pixels around `row` and `column`, int64 (N,), set to 0.

    A box of even size has one more pixel before its centre than after it; it is cut off at the picture's edges.
    """
    rows, columns = _within(x.shape[2], row, height), _within(x.shape[3], column, width)
    return x * ~(rows[:, None, :, None] & columns[:, None, None, :])


def _within(size: int, centre: Tensor, extent: int) -> Tensor:
    """Which places of an axis the box covers, bool (N, size)."""
    offset = torch.arange(size, device=centre.device) - centre[:, None] + extent // 2
    return (offset >= 0) & (offset < extent)


class DiffAugment(Augmentation):
    """Colour, translation and cutout (section 3.2 and appendix A), in the order of the policy.

    Colour shifts brightness by -0.5 to 0.5, multiplies saturation by 0 to 2 (not for grey pictures) and contrast by
    0.5 to 1.5. Random numbers come from the global generator, which each training step seeds; each rank has its own.

    Args:
        policy: the changes to make; the paper uses all three for little data, and no "colour" for conditional BigGAN
            on much data.
        translation: the largest shift, each way, as a share of the picture's size.
        cutout: the removed box's share of the picture's height and of its width.
    """

    def __init__(self, policy: list[Change] | None = None, translation: float = 0.125, cutout: float = 0.5) -> None:
        policy = ["colour", "translation", "cutout"] if policy is None else policy
        unknown = [change for change in policy if change not in ("colour", "translation", "cutout")]
        if unknown:
            raise ValueError(f"policy of DiffAugment may hold colour, translation and cutout, not {unknown[0]!r}")
        for name, share in (("translation", translation), ("cutout", cutout)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} of DiffAugment must lie in 0..1, not {share}")
        self.policy, self.translation, self.cutout = policy, translation, cutout

    def __call__(self, x: Tensor, samples_seen: int) -> Tensor:
        for change in self.policy:
            if change == "colour":
                x = brightened(x, _uniform(x) - 0.5)
                if x.shape[1] > 1:
                    x = saturated(x, _uniform(x) * 2)
                x = contrasted(x, _uniform(x) + 0.5)
            elif change == "translation":
                x = translated(x, *(_integers(x, -most, most) for most in self._pixels(x, self.translation)))
            else:
                height, width = self._pixels(x, self.cutout)
                # An even box, whose centre lies between pixels, has one more place.

                row = _integers(x, 0, x.shape[2] - height % 2)
                column = _integers(x, 0, x.shape[3] - width % 2)
                x = cut_out(x, row, column, height, width)
        return x

    @staticmethod
    def _pixels(x: Tensor, share: float) -> tuple[int, int]:
        return int(x.shape[2] * share + 0.5), int(x.shape[3] * share + 0.5)


def _uniform(x: Tensor) -> Tensor:
    return torch.rand(len(x), 1, 1, 1, device=x.device, dtype=x.dtype)


def _integers(x: Tensor, least: int, most: int) -> Tensor:
    return torch.randint(least, most + 1, (len(x),), device=x.device)

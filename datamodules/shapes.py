"""Coloured shapes drawn by formula: a dataset without files whose modes, and their frequencies, are known exactly."""

import torch
from torch import Tensor

from datamodules.base import PictureDataModule, Pictures, Split, at_least
from datamodules.order import keyed_generator

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {"red": (230, 50, 50), "green": (50, 200, 80), "blue": (70, 90, 240), "yellow": (240, 210, 50)}
MODES = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)

# A shape is given by its radius r: no shape extends farther than r from its centre along x or y.
SQUARE_SIDE = 0.8  # half the side, over r
CROSS_ARM = 0.35  # half the width of an arm, over r
# Over r²; a cross is two bars minus the middle that they share.
AREA = {
    "circle": torch.pi,
    "square": 4 * SQUARE_SIDE**2,
    "triangle": 0.75 * 3**0.5,
    "cross": 8 * CROSS_ARM - 4 * CROSS_ARM**2,
}

SMALLEST, LARGEST = 0.2, 0.35  # r, over the picture's side
DIMMEST = 0.75  # of the full colour
DARKEST, LIGHTEST = 10.0, 50.0  # grey of the background, of 255
CHUNK = 256  # pictures drawn or classified at a time, to limit memory


def coverage(shape: str, centres: Tensor, radii: Tensor, resolution: int) -> Tensor:
    """The share of each pixel that a shape covers, float32 (N, resolution, resolution) in [0, 1].

    Antialiased over one pixel by the signed distance. The shape is one of `SHAPES`; centres (N, 2), x and y from the
    left and top edges, and radii (N,) are in pixels.
    """
    pixels = torch.arange(resolution) + 0.5
    x = pixels[None, None, :] - centres[:, 0, None, None]
    y = pixels[None, :, None] - centres[:, 1, None, None]
    r = radii[:, None, None]

    def box(half_width: Tensor, half_height: Tensor) -> Tensor:
        dx, dy = x.abs() - half_width, y.abs() - half_height
        return torch.hypot(dx.clamp(min=0), dy.clamp(min=0)) + torch.maximum(dx, dy).clamp(max=0)

    if shape == "circle":
        distance = torch.hypot(x, y) - r
    elif shape == "square":
        distance = box(SQUARE_SIDE * r, SQUARE_SIDE * r)
    elif shape == "triangle":  # equilateral, pointing up, around its centroid: three half-planes
        slope = 3**0.5 / 2
        distance = torch.maximum(y, slope * x.abs() - 0.5 * y) - 0.5 * r
    else:
        distance = torch.minimum(box(r, CROSS_ARM * r), box(CROSS_ARM * r, r))
    return (0.5 - distance).clamp(0, 1)


def draw(modes: Tensor, chances: Tensor, resolution: int) -> Tensor:
    """Draws one picture per mode, uint8 (N, resolution, resolution, 3).

    Modes are indices into `MODES`, int64 (N,). The chances, float32 (N, 5) in [0, 1), are the random numbers for size,
    x, y, the colour's brightness and background.
    """
    radii = (SMALLEST + (LARGEST - SMALLEST) * chances[:, 0]) * resolution
    margin = radii + 1.5  # the outermost pixels are always background
    centres = margin[:, None] + chances[:, 1:3] * (resolution - 2 * margin)[:, None]
    colours = torch.tensor(list(COLOURS.values()), dtype=torch.float32)[modes % len(COLOURS)]
    colours = colours * (DIMMEST + (1 - DIMMEST) * chances[:, 3, None])
    background = (DARKEST + (LIGHTEST - DARKEST) * chances[:, 4, None, None, None]).expand(-1, 1, 1, 3)
    covered = torch.empty(len(modes), resolution, resolution, 1)
    for number, shape in enumerate(SHAPES):
        rows = modes // len(COLOURS) == number
        covered[rows, :, :, 0] = coverage(shape, centres[rows], radii[rows], resolution)
    return torch.lerp(background, colours[:, None, None, :], covered).round().to(torch.uint8)


def modes_of(images: Tensor) -> Tensor:
    """The mode of each stored picture, uint8 (N, H, H, 3), by calculation: int64 (N,), indices into `MODES`.

    The background is the mean of the outermost pixels. The colour is the palette's entry nearest in direction to the
    mean difference from the background; the difference along that direction is the share of each pixel that is
    covered. Each shape is then drawn with the covered area and centroid, and the one with the least squared error wins.
    If even that explains less than half of the variance, the picture shows no mode, which is -1.
    """
    found = [_modes_of_chunk(chunk.to(torch.float32)) for chunk in images.split(CHUNK)]
    return torch.cat([torch.empty(0, dtype=torch.int64), *found])


def _modes_of_chunk(images: Tensor) -> Tensor:
    resolution = images.shape[1]
    ring = torch.ones(resolution, resolution, dtype=torch.bool)
    ring[1:-1, 1:-1] = False
    background = images[:, ring].mean(1)
    difference = images - background[:, None, None, :]

    weight = difference.norm(dim=3, keepdim=True)
    direction = torch.nn.functional.normalize((difference * weight).sum((1, 2)), dim=1)
    palette = torch.tensor(list(COLOURS.values()), dtype=torch.float32)
    expected = torch.nn.functional.normalize(palette - background[:, None, :], dim=2)
    colour = (expected @ direction[:, :, None]).squeeze(2).argmax(1)

    along = (difference @ direction[:, None, :, None]).squeeze(3)
    # Full cover is the mean of the brightest pixels, not the maximum, and negative cover stays, so that noise cancels.
    bright = along >= 0.75 * along.amax((1, 2), keepdim=True)
    full = (along * bright).sum((1, 2), keepdim=True) / bright.sum((1, 2), keepdim=True)
    covered = along / full.clamp(min=1)
    area = covered.sum((1, 2)).clamp(min=1)
    pixels = torch.arange(resolution) + 0.5
    x, y = ((covered.sum(dim) * pixels).sum(1) / area for dim in (1, 2))
    errors = torch.stack(
        [
            (covered - coverage(name, torch.stack([x, y], 1), (area / AREA[name]).sqrt(), resolution))
            .square()
            .sum((1, 2))
            for name in SHAPES
        ]
    )
    least, shape = errors.min(0)
    variation = (covered - covered.mean((1, 2), keepdim=True)).square().sum((1, 2))
    return torch.where(least < variation / 2, shape * len(COLOURS) + colour, -1)


class Shapes(PictureDataModule):
    """Four shapes in four colours on a dark background: 16 modes in equal numbers. The mode is the label.

    Picture i of a split shows mode i mod 16. Its place, size and brightness are random, but the same for every training
    seed, so that all runs are measured against the same data. `modes_of` finds the mode of a picture, and so how many
    modes a model covers, without a network.

    Args:
        resolution: Height and width, in pixels, at least 16.
        train_size: Number of training pictures.
        test_size: Number of test pictures.
        batch_size: Of one discriminator step, over all ranks.
        seed: Of the order.
        num_workers: Loading processes per rank. 0 is fastest: a batch is one gather from memory.
    """

    def __init__(
        self,
        resolution: int = 64,
        train_size: int = 10_000,
        test_size: int = 1_000,
        batch_size: int = 64,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        at_least("resolution", resolution, 16)
        at_least("train_size", train_size, 1)
        at_least("test_size", test_size, 1)
        # No flips: places are uniform, and every shape is its own mirror image.
        super().__init__(resolution, 3, len(MODES), MODES, False, batch_size, seed, num_workers)
        self.test_size = test_size
        self.num_modes = len(MODES)
        self._sizes: dict[Split, int] = {"train": train_size, "test": test_size}

    def modes(self, pictures: Tensor) -> Tensor:
        """`modes_of` for pictures in the layout of metrics, uint8 (N, 3, H, W)."""
        return modes_of(pictures.cpu().permute(0, 2, 3, 1))

    def identity(self) -> tuple[object, ...]:
        look = (COLOURS, SQUARE_SIDE, CROSS_ARM, SMALLEST, LARGEST, DIMMEST, DARKEST, LIGHTEST)
        return (self._sizes, look)

    def size(self, split: Split) -> int:
        """The number of pictures in a split, without drawing them."""
        self.require(split)
        return self._sizes[split]

    def load(self, split: Split) -> Pictures:
        size = self._sizes[split]
        modes = torch.arange(size) % len(MODES)
        chances = torch.rand(size, 5, generator=keyed_generator("shapes", split))
        drawn = [
            draw(some_modes, some_chances, self.resolution)
            for some_modes, some_chances in zip(modes.split(CHUNK), chances.split(CHUNK), strict=True)
        ]
        return Pictures(torch.cat(drawn), modes)

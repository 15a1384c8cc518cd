"""ADA (Karras, Aittala, Hellsten, Laine, Lehtinen & Aila 2020): many random changes, each with probability p.

As long as p is well below 1 the generator cannot learn the changes themselves (section 2.2), and p follows how much the
discriminator overfits (section 3). The changes are those of appendix B. Matrices are composed on the CPU in float64, so
that neither they nor the padding that they require ever wait for a device.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from models.parts.augment import Augmentation
from models.parts.schedules import Schedule, value_at

Change: TypeAlias = Literal[
    "xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac",
    "brightness", "contrast", "lumaflip", "hue", "saturation", "imgfilter", "noise", "cutout",
]  # fmt: skip
Preset: TypeAlias = Literal[
    "blit", "geom", "color", "filter", "noise", "cutout", "bg", "bgc", "bgcf", "bgcfn", "bgcfnc"
]  # fmt: skip

BLIT: list[Change] = ["xflip", "rotate90", "xint"]
GEOM: list[Change] = ["scale", "rotate", "aniso", "xfrac"]
COLOR: list[Change] = ["brightness", "contrast", "lumaflip", "hue", "saturation"]
PRESETS: dict[Preset, list[Change]] = {
    "blit": BLIT,
    "geom": GEOM,
    "color": COLOR,
    "filter": ["imgfilter"],
    "noise": ["noise"],
    "cutout": ["cutout"],
    "bg": [*BLIT, *GEOM],
    "bgc": [*BLIT, *GEOM, *COLOR],
    "bgcf": [*BLIT, *GEOM, *COLOR, "imgfilter"],
    "bgcfn": [*BLIT, *GEOM, *COLOR, "imgfilter", "noise"],
    "bgcfnc": [*BLIT, *GEOM, *COLOR, "imgfilter", "noise", "cutout"],
}
"""The sets that the paper compares, by their names in the official code."""

SYM2 = tuple((a + b * math.sqrt(3)) / (4 * math.sqrt(2)) for a, b in ((1, -1), (3, -1), (3, 1), (1, 1)))
"""The orthogonal low-pass filter with two vanishing moments (Daubechies 1992, table 6.1, N = 2)."""
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
"""The least asymmetric orthogonal one with six vanishing moments (Daubechies 1992, table 6.3, N = 6)."""
MARGIN = len(SYM6) // 4
"""Pixels around a picture that resampling computes too, so that the downsampling filter finds its neighbours."""
LARGEST_BY_MATRICES = 256
"""The longer side, in pixels, up to which pictures are upsampled by matrix products."""


# Maps of the plane, (N, 3, 3): where a point goes, in pixels from the centre of the picture, x right, y down.


def _matrix(*rows: Sequence[Tensor | float]) -> Tensor:
    """Matrices (N, rows, columns) in float64 from entries that are numbers or (N,)."""
    entries = [torch.as_tensor(entry, dtype=torch.float64) for row in rows for entry in row]
    return torch.stack(torch.broadcast_tensors(*entries), -1).unflatten(-1, (len(rows), -1))


def shift(x: Tensor | float, y: Tensor | float) -> Tensor:
    """By x and y pixels."""
    return _matrix([1, 0, x], [0, 1, y], [0, 0, 1])


def scaling(x: Tensor | float, y: Tensor | float) -> Tensor:
    """By the factors x and y; negative ones mirror."""
    return _matrix([x, 0, 0], [0, y, 0], [0, 0, 1])


def rotation(angle: Tensor) -> Tensor:
    """By an angle in radians, from x towards y: clockwise on the screen."""
    c, s = angle.double().cos(), angle.double().sin()
    return _matrix([c, -s, 0], [s, c, 0], [0, 0, 1])


# Maps of colours, (N, 4, 4): red, green, blue and 1.

LUMA = torch.full((3,), 1 / math.sqrt(3), dtype=torch.float64)
"""The axis of greys."""
ALONG_LUMA = torch.outer(LUMA, LUMA)
"""The projection onto that axis."""


def _affine(linear: Tensor) -> Tensor:
    """Linear maps (N, 3, 3) as (N, 4, 4), which keep black."""
    result = torch.eye(4, dtype=torch.float64).repeat(len(linear), 1, 1)
    result[:, :3, :3] = linear
    return result


def _each(values: Tensor) -> Tensor:
    return values.double()[:, None, None]


def brightness(offset: Tensor) -> Tensor:
    """Adds a number (N,) to every channel."""
    return _matrix([1, 0, 0, offset], [0, 1, 0, offset], [0, 0, 1, offset], [0, 0, 0, 1])


def contrast(factor: Tensor) -> Tensor:
    """Multiplies every channel by a number (N,)."""
    return _affine(torch.eye(3, dtype=torch.float64) * _each(factor))


def luma_flip(flipped: Tensor) -> Tensor:
    """Swaps light and dark, but keeps hue and saturation, where `flipped` (N,) is 1: a reflection along the greys."""
    return _affine(torch.eye(3, dtype=torch.float64) - 2 * ALONG_LUMA * _each(flipped))


def hue(angle: Tensor) -> Tensor:
    """Rotates around the greys by an angle (N,) in radians, from red towards green (Rodrigues' formula)."""
    (x, y, z), one = LUMA.tolist(), torch.eye(3, dtype=torch.float64)
    across = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    # Here and below it is a difference from the identity, so that no change is the identity to the last bit.
    return _affine(one + (_each(angle).cos() - 1) * (one - ALONG_LUMA) + _each(angle).sin() * across)


def saturation(factor: Tensor) -> Tensor:
    """Multiplies the distance from the greys by a number (N,)."""
    one = torch.eye(3, dtype=torch.float64)
    return _affine(one + (one - ALONG_LUMA) * (_each(factor) - 1))


# Resampling. It is linear in the pictures, and so are its derivatives.


class _Sampled(torch.autograd.Function):
    """Bilinear samples of x (N, C, H, W) at a fixed grid (N, h, w, 2), zeros outside.

    A gradient penalty differentiates twice, which torch's `grid_sample` long refused (pytorch issue 34704; on the CPU
    2.15 does it). But a linear map is its own derivative, and the derivative of its adjoint is the map itself.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor) -> Tensor:  # noqa: ANN401 - autograd's context is untyped
        ctx.save_for_backward(grid)
        ctx.size = x.shape
        return F.grid_sample(x, grid, align_corners=False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (grid,) = ctx.saved_tensors
        return _Spread.apply(gradient, grid, ctx.size), None


class _Spread(torch.autograd.Function):
    """The adjoint of `_Sampled`: adds each value (N, C, h, w) to the four pixels that it would be sampled from."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, grid: Tensor, size: torch.Size) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(grid)
        # The operator behind autograd's own backward. It requires the pictures, but only the gradient by the grid,
        # which is not computed, depends on their values.
        pictures, wanted = values.new_zeros(()).expand(size), [True, False]
        return torch.ops.aten.grid_sampler_2d_backward(values, pictures, grid, 0, 0, False, wanted)[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        (grid,) = ctx.saved_tensors
        return _Sampled.apply(gradient, grid), None, None


def sampled(x: Tensor, grid: Tensor) -> Tensor:
    """Bilinear samples of x (N, C, H, W) at points (N, h, w, 2), -1..1 from edge to edge; twice differentiable by x."""
    return _Sampled.apply(x, grid)


def _taps(x: Tensor) -> Tensor:
    """SYM6 with sum 1, as a convolution's weight along columns."""
    taps = torch.tensor(SYM6, dtype=x.dtype, device=x.device)
    return (taps / taps.sum()).view(1, 1, -1, 1)


def _mirrored(size: int, before: int, after: int, device: torch.device) -> Tensor:
    """The places 0..size-1 of an axis, with more before and after them, reflected there as often as necessary."""
    place = torch.arange(-before, size + after, device=device)
    return (size - 1) - ((size - 1) - place.remainder(max(2 * (size - 1), 1))).abs()


def upsampled(x: Tensor, left: int = 0, right: int = 0, top: int = 0, bottom: int = 0) -> Tensor:
    """Pictures with this many mirrored pixels at each edge, at twice the size: zeros inserted, then SYM6 both ways.

    It is a sparse matrix per axis, applied as a dense one if pictures are small: on a CPU a convolution of single
    channels takes sixteen times as long at 32 pixels, twice at 256, and as long at 512.
    """
    places = _mirrored(x.shape[2], top, bottom, x.device), _mirrored(x.shape[3], left, right, x.device)
    if max(x.shape[2:]) <= LARGEST_BY_MATRICES:
        rows, columns = (
            _doubled(torch.eye(size, dtype=x.dtype, device=x.device)[None, None, place], rows=True)[0, 0]
            for size, place in zip(x.shape[2:], places, strict=True)
        )
        return rows @ (x @ columns.mT)
    return _doubled(_doubled(x.index_select(2, places[0]).index_select(3, places[1]), rows=True), rows=False)


def _doubled(x: Tensor, rows: bool) -> Tensor:
    """`upsampled` along one axis."""
    pad, single = len(SYM6) // 2 - 1, x.reshape(-1, 1, *x.shape[2:])
    if rows:
        single = F.conv_transpose2d(single, 2 * _taps(x), stride=(2, 1), padding=(pad, 0))
    else:
        single = F.conv_transpose2d(single, 2 * _taps(x).mT, stride=(1, 2), padding=(0, pad))
    return single.view(*x.shape[:2], *single.shape[2:])


def downsampled(x: Tensor) -> Tensor:
    """The adjoint of `upsampled` up to a factor, without the `MARGIN` at each edge, which lacks neighbours."""
    taps = _taps(x)
    single = x[:, :, 1:-1, 1:-1].reshape(-1, 1, x.shape[2] - 2, x.shape[3] - 2)
    single = F.conv2d(F.conv2d(single, taps, stride=(2, 1)), taps.mT, stride=(1, 2))
    return single.view(*x.shape[:2], *single.shape[2:])


# The changes, given the drawn parameters. A picture whose parameters are neutral stays as it is.


def _where(changed: Tensor, then: Tensor, otherwise: Tensor) -> Tensor:
    return torch.where(changed.to(then.device)[:, None, None, None], then, otherwise)


def moved(x: Tensor, maps: Tensor) -> Tensor:
    """Pictures moved by maps of the plane, (N, 3, 3), in one resampling; beyond the edges they are mirrored.

    Twice the resolution and an orthogonal filter keep bilinear sampling from blurring: up by H(z), down by H(1/z), so
    that nothing is lost where nothing moves.
    """
    (height, width), back = x.shape[2:], torch.linalg.inv(maps.double())

    # How far the picture, including the filter's reach, looks beyond its edges; one padding for the whole batch.
    edge_x, edge_y = (width - 1) / 2, (height - 1) / 2
    corners = _matrix(*([u, v, 1] for u in (-edge_x, edge_x) for v in (-edge_y, edge_y))).mT
    edge, reach = torch.tensor([edge_x, edge_y]).double(), (back @ corners)[:, :2]
    beyond = torch.stack([-reach.amin((0, 2)), reach.amax((0, 2))]) - edge + 2 * MARGIN
    (left, top), (right, bottom) = beyond.clamp_min(0).minimum(2 * edge).ceil().int().tolist()
    back = shift((left - right) / 2, (top - bottom) / 2) @ back

    # SYM6 is centred on its sixth tap, half a (small) pixel from its middle.
    large = upsampled(x, left, right, top, bottom)
    doubled = shift(-0.5, -0.5) @ scaling(2, 2)
    back = doubled @ back @ torch.linalg.inv(doubled)

    # grid_sample counts from -1 to 1. Products by hand, because a GPU may round matrix products to ten bits.
    back = (scaling(2 / large.shape[3], 2 / large.shape[2]) @ back)[:, :2, :, None, None].to(x.device, x.dtype)
    rows, columns = (2 * (size + 2 * MARGIN) for size in (height, width))
    v = (torch.arange(rows, device=x.device, dtype=x.dtype) - (rows - 1) / 2)[:, None]
    u = torch.arange(columns, device=x.device, dtype=x.dtype) - (columns - 1) / 2
    grid = (back[:, :, 0] * u + back[:, :, 1] * v + back[:, :, 2]).permute(0, 2, 3, 1)

    changed = (maps != torch.eye(3, dtype=maps.dtype)).flatten(1).any(1)
    return _where(changed, downsampled(sampled(large, grid)), x)


def coloured(x: Tensor, maps: Tensor) -> Tensor:
    """Pictures with colours mapped by (N, 4, 4), one channel as a grey. ValueError unless they have 1 or 3 channels."""
    changed = (maps != torch.eye(4, dtype=maps.dtype)).flatten(1).any(1)
    if x.shape[1] == 1:
        grey = maps[:, :3].mean(1)
        factor, offset = (each.to(x.device, x.dtype)[:, None, None, None] for each in (grey[:, :3].sum(1), grey[:, 3]))
        return _where(changed, x * factor + offset, x)
    if x.shape[1] != 3:
        raise ValueError(f"ADA maps colours of 1 or 3 channels, not {x.shape[1]}: choose a policy without, such as bg")
    linear, offset = (each.to(x.device, x.dtype) for each in (maps[:, :3, :3], maps[:, :3, 3:]))
    return _where(changed, (linear @ x.flatten(2) + offset).view(x.shape), x)


def band_filters() -> Tensor:
    """Filters that split a signal into four bands, low to high, float64 (4, 43); their sum is the signal itself.

    Each halves the band below. With L(z) = H(z) H(1/z) / 2 and its mirror L(-z) of SYM2 the bands are
    L(z^4) L(z^2) L(z), L(-z^4) L(z^2) L(z), L(-z^2) L(z) and L(-z), and L(z) + L(-z) = 1.
    """
    h = torch.tensor(SYM2, dtype=torch.float64)
    low = _convolved(h, h.flip(0)) / 2
    high = low * torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(4)[1:8]  # -1 at odd distances from the centre
    bands = [torch.ones(1, dtype=torch.float64)]
    for _ in range(3):
        bands = [_convolved(_spaced(band), low) for band in bands]
        bands.append(F.pad(high, [(len(bands[0]) - len(high)) // 2] * 2))
    return torch.stack(bands)


def _convolved(a: Tensor, b: Tensor) -> Tensor:
    return F.conv1d(a[None, None], b.flip(0)[None, None], padding=len(b) - 1)[0, 0]


def _spaced(taps: Tensor) -> Tensor:
    """H(z^2) from H(z)."""
    return torch.stack([taps, torch.zeros_like(taps)], 1).flatten()[:-1]


def filtered(x: Tensor, gains: Tensor) -> Tensor:
    """Pictures whose four bands are multiplied by `gains` (N, 4), low to high, along each axis."""
    count, channels, height, width = x.shape
    taps = (gains.double() @ band_filters()).to(x.device, x.dtype)
    taps = taps[:, None].expand(-1, channels, -1).reshape(count * channels, 1, 1, -1)
    reach = taps.shape[3] // 2
    rows, columns = (_mirrored(size, reach, reach, x.device) for size in (height, width))
    padded = x.index_select(2, rows).index_select(3, columns).reshape(1, count * channels, len(rows), len(columns))
    result = F.conv2d(F.conv2d(padded, taps, groups=len(taps)), taps.mT, groups=len(taps))
    return _where((gains != 1).any(1), result.view(x.shape), x)


def noised(x: Tensor, sigma: Tensor) -> Tensor:
    """Pictures with normal noise of standard deviation `sigma` (N,) on every value, from the device's generator."""
    return x + torch.randn_like(x) * sigma.to(x.device, x.dtype)[:, None, None, None]


def cut_out(x: Tensor, size: Tensor, centre: Tensor) -> Tensor:
    """Pictures with a box set to 0: `size` (N,) is its share of height and width, `centre` (N, 2) its x, y in 0..1."""
    size, centre = size.to(x.device, x.dtype), centre.to(x.device, x.dtype)
    inside = []
    for axis, pixels in enumerate((x.shape[3], x.shape[2])):
        place = (torch.arange(pixels, device=x.device, dtype=x.dtype) + 0.5) / pixels
        inside.append((place - centre[:, axis, None]).abs() < size[:, None] / 2)
    return x * ~(inside[0][:, None, None, :] & inside[1][:, None, :, None])


# The random parameters, and the probability.


class ADA(Augmentation):
    """Makes each change of the policy to each picture with probability p, in the paper's order (appendix B).

    With a `target`, p follows r_t = E[sign(D(real))], the share of real pictures that the discriminator finds real
    minus the share that it finds fake (section 3, eq. 1): 0 if it cannot tell, 1 if it overfits and knows them all.
    Every `interval` training steps p rises if r_t was above the target, and falls, not below 0, if it was below.

    Random numbers come from the global generators, which each training step seeds; each rank has its own, but all have
    the same p. The computation is in float32, even under autocast, and takes the same time at every p.

    Args:
        policy: the name of one of the paper's sets of changes, or a list of changes.
        p: with a target, the initial p; without, its fixed value or its schedule.
        target: the value that r_t is held at; null keeps p as it is.
        speed_kimg: the least thousand samples in which p goes from 0 to 1.
        interval: training steps from one adjustment of p to the next.
        xint_max: largest whole-pixel translation, as a share of the picture's size.
        scale_std: standard deviation of isotropic scaling's logarithm to base 2.
        rotate_max: largest rotation, each way; 1 is half a turn.
        aniso_std: standard deviation of anisotropic scaling's logarithm to base 2.
        xfrac_std: standard deviation of fractional translation, as a share of the picture's size.
        brightness_std: standard deviation of the added brightness; values span -1 to 1.
        contrast_std: standard deviation of the factor's logarithm to base 2.
        hue_max: largest rotation of hue, each way; 1 is half a turn.
        saturation_std: standard deviation of the factor's logarithm to base 2.
        imgfilter_std: standard deviation of the logarithm to base 2 of a band's amplification.
        noise_std: standard deviation of the noise's standard deviation.
        cutout_size: the removed box's share of the picture's height and of its width.
        multipliers: of p, from 0 to 1, for changes that are made less often than the others.
    """

    def __init__(
        self,
        policy: Preset | list[Change] = "bgc",
        p: float | Schedule = 0.0,
        target: float | None = 0.6,
        speed_kimg: float = 500.0,
        interval: int = 4,
        xint_max: float = 0.125,
        scale_std: float = 0.2,
        rotate_max: float = 1.0,
        aniso_std: float = 0.2,
        xfrac_std: float = 0.125,
        brightness_std: float = 0.2,
        contrast_std: float = 0.5,
        hue_max: float = 1.0,
        saturation_std: float = 1.0,
        imgfilter_std: float = 1.0,
        noise_std: float = 0.1,
        cutout_size: float = 0.5,
        multipliers: dict[str, float] | None = None,
    ) -> None:
        if isinstance(policy, str) and policy not in PRESETS:
            raise ValueError(f"policy of ADA is one of {', '.join(PRESETS)} or a list of changes, not {policy!r}")
        self.changes = PRESETS[policy] if isinstance(policy, str) else policy
        if unknown := [change for change in self.changes if change not in PRESETS["bgcfnc"]]:
            raise ValueError(f"policy of ADA may hold {', '.join(PRESETS['bgcfnc'])}, not {unknown[0]!r}")
        if isinstance(p, Schedule):
            if target is not None:
                raise ValueError("p of ADA follows a schedule or its target, not both: set target: null")
        elif not 0 <= p <= 1:
            raise ValueError(f"p of ADA must lie in 0..1, not {p}")
        if target is not None and not -1 <= target <= 1:
            raise ValueError(f"target of ADA must lie in -1..1, like a mean of signs, not {target}")
        if speed_kimg <= 0:
            raise ValueError(f"speed_kimg of ADA must be positive, not {speed_kimg}")
        for change, multiplier in (multipliers or {}).items():
            if change not in self.changes:
                raise ValueError(f"multipliers of ADA: {change!r} is not among the policy's changes")
            if not 0 <= multiplier <= 1:
                raise ValueError(f"multipliers of ADA must lie in 0..1, not {multiplier} for {change}")
        if interval < 1:
            raise ValueError(f"interval of ADA counts training steps and must be at least 1, not {interval}")
        self.policy, self.p = policy, p
        self.target, self.speed_kimg, self.interval = target, speed_kimg, interval
        self.xint_max, self.scale_std, self.rotate_max = xint_max, scale_std, rotate_max
        self.aniso_std, self.xfrac_std = aniso_std, xfrac_std
        self.brightness_std, self.contrast_std = brightness_std, contrast_std
        self.hue_max, self.saturation_std = hue_max, saturation_std
        self.imgfilter_std, self.noise_std, self.cutout_size = imgfilter_std, noise_std, cutout_size
        self.multipliers = multipliers
        self._adapted_p = 0.0 if isinstance(p, Schedule) else p
        # Sum and number of signs: of this step and rank; since the last adjustment, over all ranks.
        self._heard: Tensor | None = None
        self._signs = torch.zeros(2)

    def p_at(self, samples_seen: int) -> float:
        """The probability of each change after `samples_seen` training samples."""
        return self._adapted_p if self.target is not None else value_at(self.p, samples_seen)

    def __call__(self, x: Tensor, samples_seen: int) -> Tensor:
        p, (count, channels, height, width) = self.p_at(samples_seen), x.shape
        layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        with torch.autocast(x.device.type, enabled=False):
            x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
            if self._any_of(*BLIT, *GEOM):
                x = moved(x, self.drawn_moves(count, height, width, p))
            if self._any_of(*COLOR):
                x = coloured(x, self.drawn_colours(count, p, grey=channels == 1))
            if self._any_of("imgfilter"):
                x = filtered(x, self.drawn_gains(count, p))
            if self._any_of("noise"):
                x = noised(x, self._drawn("noise", p, torch.randn(count).abs() * self.noise_std, 0.0))
            if self._any_of("cutout"):
                x = cut_out(
                    x,
                    self._drawn("cutout", p, torch.full((count,), self.cutout_size), 0.0),
                    torch.rand(count, 2),
                )
            return x.contiguous(memory_format=layout)

    def _share(self, change: Change, p: float) -> float:
        return p * (self.multipliers or {}).get(change, 1.0)

    def _drawn(self, change: Change, p: float, drawn: Tensor, otherwise: float) -> Tensor:
        return _chosen(self._share(change, p), drawn, otherwise)

    def _any_of(self, *changes: Change) -> bool:
        return any(change in self.changes for change in changes)

    def drawn_moves(self, count: int, height: int, width: int, p: float) -> Tensor:
        """The map of each picture's points, (count, 3, 3): pixel blitting, then general geometry."""
        maps = torch.eye(3, dtype=torch.float64).repeat(count, 1, 1)
        if self._any_of("xflip"):
            flipped = self._drawn("xflip", p, torch.floor(torch.rand(count) * 2), 0.0)
            maps = scaling(1 - 2 * flipped, 1) @ maps
        if self._any_of("rotate90"):
            turns = self._drawn("rotate90", p, torch.floor(torch.rand(count) * 4), 0.0)
            maps = rotation(-math.pi / 2 * turns) @ maps
        if self._any_of("xint"):
            x, y = self._drawn("xint", p, _around_zero(count, 2) * self.xint_max, 0.0).unbind(1)
            maps = shift(torch.round(x * width), torch.round(y * height)) @ maps
        if self._any_of("scale"):
            factor = self._drawn("scale", p, torch.exp2(torch.randn(count) * self.scale_std), 1.0)
            maps = scaling(factor, factor) @ maps
        # Before or after anisotropic scaling, or both: rotated at all with probability p.
        p_rotate = 1 - math.sqrt(max(1 - self._share("rotate", p), 0.0))
        if self._any_of("rotate"):
            maps = self._drawn_rotation(count, p_rotate) @ maps
        if self._any_of("aniso"):
            factor = self._drawn("aniso", p, torch.exp2(torch.randn(count) * self.aniso_std), 1.0)
            maps = scaling(factor, 1 / factor) @ maps
        if self._any_of("rotate"):
            maps = self._drawn_rotation(count, p_rotate) @ maps
        if self._any_of("xfrac"):
            x, y = self._drawn("xfrac", p, torch.randn(count, 2) * self.xfrac_std, 0.0).unbind(1)
            maps = shift(x * width, y * height) @ maps
        return maps

    def _drawn_rotation(self, count: int, p: float) -> Tensor:
        return rotation(-_chosen(p, _around_zero(count) * math.pi * self.rotate_max, 0.0))

    def drawn_colours(self, count: int, p: float, grey: bool) -> Tensor:
        """The map of each picture's colours, (count, 4, 4); grey ones have neither hue nor saturation."""
        maps = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
        if self._any_of("brightness"):
            maps = brightness(self._drawn("brightness", p, torch.randn(count) * self.brightness_std, 0.0)) @ maps
        if self._any_of("contrast"):
            maps = contrast(self._drawn("contrast", p, torch.exp2(torch.randn(count) * self.contrast_std), 1.0)) @ maps
        if self._any_of("lumaflip"):
            maps = luma_flip(self._drawn("lumaflip", p, torch.floor(torch.rand(count) * 2), 0.0)) @ maps
        if self._any_of("hue") and not grey:
            maps = hue(self._drawn("hue", p, _around_zero(count) * math.pi * self.hue_max, 0.0)) @ maps
        if self._any_of("saturation") and not grey:
            maps = (
                saturation(self._drawn("saturation", p, torch.exp2(torch.randn(count) * self.saturation_std), 1.0))
                @ maps
            )
        return maps

    def drawn_gains(self, count: int, p: float) -> Tensor:
        """The amplification of each picture's four bands, (count, 4), which keeps the power of natural pictures."""
        power = torch.tensor([10.0, 1.0, 1.0, 1.0], dtype=torch.float64)  # of a natural picture's bands, in 13ths
        gains = torch.ones(count, 4, dtype=torch.float64)
        for band in range(4):
            one = torch.ones(count, 4, dtype=torch.float64)
            one[:, band] = self._drawn("imgfilter", p, torch.exp2(torch.randn(count) * self.imgfilter_std), 1.0)
            gains = gains * one / ((power * one.square()).sum(1, keepdim=True) / 13).sqrt()
        return gains

    # The adaptive p.

    @property
    def reads_signs(self) -> bool:
        return self.target is not None

    def judged(self, real_logits: Tensor) -> None:
        if self.target is None:
            return
        signs = real_logits.detach().float().sign()
        heard = torch.stack([signs.sum(), signs.new_full((), len(signs))])
        self._heard = heard if self._heard is None else self._heard + heard

    def adapt(self, step: int, samples_seen: int, over_ranks: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Adjusts p after every `interval`-th step, by the r_t since the last adjustment; reports it as ada_p."""
        if self.target is None:
            return {} if step % self.interval else {"ada_p": torch.tensor(self.p_at(samples_seen))}
        if self._heard is None:
            return {}
        self._signs = self._signs.to(self._heard.device) + over_ranks(self._heard)
        self._heard = None
        if step % self.interval:
            return {}
        signs, judged = self._signs.tolist()  # the only wait for the device
        self._signs = torch.zeros(2)
        r_t = signs / judged
        direction = (r_t > self.target) - (r_t < self.target)
        self._adapted_p = max(self._adapted_p + direction * judged / (1000 * self.speed_kimg), 0.0)
        return {"ada_p": torch.tensor(self.p_at(samples_seen))}

    def state(self) -> dict[str, float]:
        signs, judged = self._signs.tolist()
        return {"p": self._adapted_p, "signs": signs, "judged": judged}

    def load_state(self, state: dict[str, float]) -> None:
        if missing := [name for name in ("p", "signs", "judged") if name not in state]:
            raise ValueError(f"the checkpoint's augmentation lacks {missing[0]}: it was not trained with ADA")
        self._adapted_p = float(state["p"])
        self._signs = torch.tensor([state["signs"], state["judged"]])
        self._heard = None


def _around_zero(*size: int) -> Tensor:
    """Uniform in -1..1."""
    return torch.rand(*size) * 2 - 1


def _chosen(p: float, drawn: Tensor, otherwise: float) -> Tensor:
    """`drawn` (N, ...) for each picture with probability p, and `otherwise` for the others."""

    return torch.where(torch.rand(len(drawn), *[1] * (drawn.ndim - 1)) < p, drawn, otherwise)

"""Interpolations between latents."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

Interpolation: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(a, b, t) to the points at t, 0 for `a` and 1 for `b`: a and b (N, ...), t (N,), the points like `a`."""


def lerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Along the straight line, a + t (b - a)."""
    return torch.lerp(a, b, t.to(a).reshape(-1, *[1] * (a.ndim - 1)))


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Along the great circle through both directions, at constant speed (Shoemake 1985, section 3.3).

    The length changes linearly from that of `a` to that of `b`. Normal latents of many dimensions have nearly the same
    length, and the straight line between two of them passes through lengths that are never drawn. A model that
    normalises its latents, like StyleGAN2, sees only the great circle.

    Parallel vectors are interpolated in length. Opposite ones do not determine a great circle; the path leads over one
    axis, chosen by `a` alone. A vector of zeros takes the other's direction. Use float64 to differentiate by small
    steps of t.
    """
    x, y = a.flatten(1), b.flatten(1)
    t = t.to(x)[:, None]
    x_length, y_length = x.norm(dim=1, keepdim=True), y.norm(dim=1, keepdim=True)
    from_zero, to_zero = x_length == 0, y_length == 0
    u = torch.where(from_zero, y, x) / torch.where(from_zero, torch.where(to_zero, 1.0, y_length), x_length)
    v = torch.where(to_zero, u, y / torch.where(to_zero, 1.0, y_length))
    # Kahan's formula, because acos(u . v) loses half its digits if the angle is small or nearly pi.
    angle = 2 * torch.atan2((u - v).norm(dim=1, keepdim=True), (u + v).norm(dim=1, keepdim=True))
    towards = v - (u * v).sum(1, keepdim=True) * u
    length = towards.norm(dim=1, keepdim=True)
    degenerate = length <= 8 * torch.finfo(x.dtype).eps
    towards = torch.where(degenerate, _perpendicular(u), towards / torch.where(degenerate, 1.0, length))
    direction = torch.cos(t * angle) * u + torch.sin(t * angle) * towards
    return (torch.lerp(x_length, y_length, t) * direction).view_as(a)


def _perpendicular(u: Tensor) -> Tensor:
    """Unit vectors perpendicular to unit vectors (N, D), from the axis with each one's smallest component."""
    axis = torch.zeros_like(u).scatter_(1, u.abs().argmin(1, keepdim=True), 1.0)
    across = axis - (axis * u).sum(1, keepdim=True) * u
    length = across.norm(dim=1, keepdim=True)
    return across / torch.where(length == 0, 1.0, length)  # there is none in one dimension


def along(points: Tensor, steps: int, closed: bool, between: Interpolation) -> Tensor:
    """A path through points (K, ...), with `steps` steps from each to the next.

    If `closed`, it returns to the first point, (K * steps, ...), which occurs once, so that it can be shown in a loop.
    Otherwise it has both ends, ((K - 1) * steps + 1, ...). ValueError for fewer than two points, or no step.
    """
    if len(points) < 2 or steps < 1:
        raise ValueError(f"a path needs at least 2 points and 1 step between them, not {len(points)} and {steps}")
    ends = torch.cat([points[1:], points[:1]]) if closed else points[1:]
    t = torch.arange(steps, dtype=points.dtype, device=points.device).repeat(len(ends)) / steps
    a = points[: len(ends)].repeat_interleave(steps, 0)
    path = between(a, ends.repeat_interleave(steps, 0), t)
    return path if closed else torch.cat([path, points[-1:]])

"""Ways between latents, in closed form."""

import math

import pytest
import torch
from torch import Tensor

from metrics.interpolation import along, lerp, slerp


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_a_quarter_of_a_circle() -> None:
    a, b = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    for t in (0.0, 0.3, 1.0):
        angle = t * math.pi / 2
        expected = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
        torch.testing.assert_close(slerp(a, b, torch.tensor([t])), expected, rtol=1e-7, atol=1e-7)


def test_speed_is_constant_and_lengths_go_linearly() -> None:
    a, b = normal(1, 64), 3 * normal(1, 64, seed=1)
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    path = slerp(a.expand(11, -1), b.expand(11, -1), t)
    torch.testing.assert_close(path[[0, -1]], torch.cat([a, b]))
    torch.testing.assert_close(path.norm(dim=1), torch.lerp(a.norm(), b.norm(), t))
    directions = path / path.norm(dim=1, keepdim=True)
    cosines = (directions[1:] * directions[:-1]).sum(1)
    torch.testing.assert_close(cosines, cosines[:1].expand(10))
    whole = torch.nn.functional.cosine_similarity(a, b).acos()
    assert 10 * float(cosines[0].acos()) == pytest.approx(float(whole))


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0, 0.0], ids=["equal", "parallel", "opposite", "zero"])
def test_directions_that_no_circle_joins_are_joined_all_the_same(factor: float) -> None:
    a = normal(2, 8)
    b = factor * a
    middle = slerp(a, b, torch.full((2,), 0.5))
    assert middle.isfinite().all()
    torch.testing.assert_close(middle.norm(dim=1), (1 + abs(factor)) / 2 * a.norm(dim=1))
    torch.testing.assert_close(slerp(a, b, torch.ones(2)), b, rtol=1e-7, atol=1e-7)
    if factor < 0:
        assert (middle * a).sum(1).abs().max() < 1e-7  # at right angles to both


def test_small_steps_keep_their_digits() -> None:
    """A path length takes steps of 1e-4: an arc cosine of the angle would lose half of them."""
    a, b = normal(1, 512), normal(1, 512, seed=1)
    at, beyond = (slerp(a, b, torch.tensor([t], dtype=torch.float64)) for t in (0.5, 0.5 + 1e-8))
    angle = float(torch.nn.functional.cosine_similarity(a, b).acos())
    speed = ((beyond - at) / 1e-8).norm()
    # Of the direction and of the length, at right angles to each other.
    expected = math.hypot(angle * float(at.norm()), float(b.norm() - a.norm()))
    assert float(speed) == pytest.approx(expected, rel=1e-6)


def test_a_path_that_closes_shows_no_point_twice() -> None:
    points = torch.tensor([[0.0], [4.0], [8.0]])
    assert along(points, 4, closed=False, between=lerp).flatten().tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert along(points, 4, closed=True, between=lerp).flatten().tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 6, 4, 2]
    with pytest.raises(ValueError, match="at least 2 points and 1 step"):
        along(points[:1], 3, closed=True, between=lerp)


def test_styles_are_interpolated_layer_by_layer() -> None:
    a, b = normal(2, 3, 4), normal(2, 3, 4, seed=1)
    torch.testing.assert_close(lerp(a, b, torch.tensor([0.25, 1.0])), torch.stack([0.75 * a[0] + 0.25 * b[0], b[1]]))

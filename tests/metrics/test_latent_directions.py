"""SeFa and principal components of matrices whose answer is known."""

import pytest
import torch

from metrics.latent_directions import deviations, factorized, principal


def rotation(size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q


def test_sefa_finds_what_a_map_stretches_most() -> None:
    right, left, lengths = rotation(4), rotation(6)[:, :4], torch.tensor([1.0, 5.0, 0.5, 3.0]).double()
    found, strengths = factorized(left @ torch.diag(lengths) @ right.T, 3)
    assert strengths.tolist() == pytest.approx([25, 9, 1])
    agreement = (found @ right).abs()
    assert torch.allclose(agreement, torch.eye(4).double()[[1, 3, 0]], atol=1e-9)
    assert (found.gather(1, found.abs().argmax(1, keepdim=True)) > 0).all()


def test_principal_components_of_a_known_covariance() -> None:
    axes, spreads = rotation(3), torch.tensor([1.0, 4.0, 2.0]).double()
    # Two points either side of the mean on each axis: the covariance is exactly diagonal in `axes`.
    points = torch.cat([axes.T * spreads[:, None], -axes.T * spreads[:, None]]) + torch.tensor([7.0, -1.0, 0.5])
    found, variances = principal(points, 3)
    assert variances.tolist() == pytest.approx([2 * 16 / 5, 2 * 4 / 5, 2 * 1 / 5])
    assert torch.allclose((found @ axes).abs(), torch.eye(3).double()[[1, 2, 0]], atol=1e-9)
    assert deviations(points, found).square().tolist() == pytest.approx(variances.tolist())


@pytest.mark.parametrize("count", [0, 4])
def test_there_are_no_more_directions_than_dimensions(count: int) -> None:
    with pytest.raises(ValueError, match="this space has 1 to 3"):
        factorized(torch.eye(3), count)
    with pytest.raises(ValueError, match="this space has 1 to 3"):
        principal(torch.randn(5, 3), count)


def test_one_point_has_no_components() -> None:
    with pytest.raises(ValueError, match="at least 2 points, not 1"):
        principal(torch.zeros(1, 3), 1)

import pytest
import torch
from torch import Tensor, nn

from models.parts.regularizers import R1, R2, GradientPenalty, Regularizer, non_orthogonality
from models.parts.schedules import Linear


def pictures(seed: int, count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, 3, 3, dtype=torch.float64, generator=generator)


REAL, FAKE = pictures(0), pictures(1)
SLOPE = pictures(2, 1)[0]


def linear(x: Tensor) -> Tensor:
    """D(x) = <SLOPE, x>: its gradient is SLOPE everywhere."""
    return (x * SLOPE).flatten(1).sum(1)


def quadratic(x: Tensor) -> Tensor:
    """D(x) = |x|^2 / 2: its gradient at x is x."""
    return x.square().flatten(1).sum(1) / 2


def squared_norm(x: Tensor) -> Tensor:
    return x.square().flatten(1).sum(1)


@pytest.mark.parametrize(("regularizer", "place"), [(R1(3.0), REAL), (R2(3.0), FAKE)])
def test_penalty_of_a_linear_critic_is_its_squared_slope(regularizer: Regularizer, place: Tensor) -> None:
    expected = 1.5 * SLOPE.square().sum().expand(5)
    torch.testing.assert_close(regularizer.penalty(linear, REAL, FAKE, 0), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("regularizer", "place"), [(R1(3.0), REAL), (R2(3.0), FAKE)])
def test_penalty_of_a_quadratic_critic_is_the_samples_squared_norm(regularizer: Regularizer, place: Tensor) -> None:
    expected = 1.5 * squared_norm(place)
    torch.testing.assert_close(regularizer.penalty(quadratic, REAL, FAKE, 0), expected, rtol=1e-12, atol=0)


def test_gradient_penalty_of_a_linear_critic_is_its_distance_from_the_target() -> None:
    expected = 10 * (SLOPE.norm() - 0.5).square().expand(5)
    penalty = GradientPenalty(10.0, target=0.5).penalty(linear, REAL, FAKE, 0)
    torch.testing.assert_close(penalty, expected, rtol=1e-12, atol=0)


def test_gradient_penalty_is_taken_at_one_random_point_between_each_pair() -> None:
    torch.manual_seed(0)
    penalty = GradientPenalty(10.0).penalty(quadratic, REAL, FAKE, 0)
    torch.manual_seed(0)
    mix = torch.rand(5, 1, 1, 1, dtype=torch.float64)
    expected = 10 * (squared_norm(REAL + mix * (FAKE - REAL)).sqrt() - 1).square()
    torch.testing.assert_close(penalty, expected, rtol=1e-12, atol=0)


def test_gradient_penalty_of_a_constant_critic_has_a_finite_gradient() -> None:
    weight = torch.zeros((), dtype=torch.float64, requires_grad=True)  # |grad D| = 0, where a root has no derivative
    penalty = GradientPenalty().penalty(lambda x: weight * linear(x), REAL, FAKE, 0)
    (gradient,) = torch.autograd.grad(penalty.sum(), weight)
    assert gradient.isfinite()


def smooth_critic() -> nn.Module:
    torch.manual_seed(3)
    layers = (nn.Conv2d(2, 2, 2, padding=1), nn.Softplus(), nn.Flatten(), nn.Linear(32, 1), nn.Flatten(0))
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize("regularizer", [R1(3.0), R2(3.0), GradientPenalty()], ids=lambda r: type(r).__name__)
def test_gradient_by_the_critics_parameters_is_that_of_finite_differences(regularizer: Regularizer) -> None:
    critic = smooth_critic()
    parameters = list(critic.parameters())

    def mean() -> Tensor:
        torch.manual_seed(4)  # the gradient penalty's points between real and fake
        return regularizer.penalty(critic, REAL, FAKE, 0).mean()

    gradients = torch.autograd.grad(mean(), parameters, allow_unused=True)  # the last bias moves no gradient
    step = 1e-5
    for parameter, gradient in zip(parameters, gradients, strict=True):
        numeric = torch.zeros_like(parameter)
        for i in range(parameter.numel()):
            flat = parameter.detach().view(-1)  # shares the parameter's memory
            before = flat[i].item()
            flat[i] = before + step
            above = mean().item()
            flat[i] = before - step
            numeric.view(-1)[i] = (above - mean().item()) / (2 * step)
            flat[i] = before
        exact = torch.zeros_like(parameter) if gradient is None else gradient
        # Central differences err by step^2 = 1e-10 times a third derivative, and by 1e-16 / step = 1e-11.
        torch.testing.assert_close(exact, numeric, rtol=1e-6, atol=1e-8)


def test_penalty_leaves_real_and_fake_without_gradients() -> None:
    real, fake = REAL.clone(), FAKE.clone()
    for regularizer in (R1(1.0), R2(1.0), GradientPenalty()):
        regularizer.penalty(quadratic, real, fake, 0)
    assert not real.requires_grad
    assert not fake.requires_grad


@pytest.mark.parametrize("every", [2, 3, 16])
def test_lazy_penalties_sum_to_the_eager_ones(every: int) -> None:
    lazy, eager = R1(3.0, every), R1(3.0)
    for first in (0, 1, every - 1):  # wherever a stretch of `every` steps begins
        steps = range(first, first + every)
        sums = [
            sum(r.every * r.penalty(quadratic, REAL, FAKE, 0) for step in steps if r.as_penalty().due(step))
            for r in (lazy, eager)
        ]
        torch.testing.assert_close(sums[0], sums[1], rtol=1e-12, atol=0)


def test_strength_follows_its_schedule() -> None:
    scheduled = R1(Linear(4.0, 0.0, kimg=2.0))
    penalties = [scheduled.penalty(quadratic, REAL, FAKE, seen) for seen in (0, 1000, 2000)]
    whole = R1(4.0).penalty(quadratic, REAL, FAKE, 0)
    for penalty, share in zip(penalties, (1.0, 0.5, 0.0), strict=True):
        torch.testing.assert_close(penalty, share * whole, rtol=1e-12, atol=0)


def test_interval_below_one_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"every .* at least 1, not 0"):
        R1(1.0, every=0)


# Weights.


def test_non_orthogonality_by_hand() -> None:
    # Rows (1, 2), (3, 4), (0, 1) have the products 11, 2, 4, each twice off the diagonal.
    tall = torch.tensor([[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]])
    assert non_orthogonality([tall]) == 2 * (11**2 + 2**2 + 4**2)
    wide = torch.tensor([[[1.0, 0.0], [2.0, 0.0]], [[3.0, 1.0], [0.0, 5.0]]])  # filters (1, 0, 2, 0) and (3, 1, 0, 5)
    assert non_orthogonality([wide, tall]) == 2 * 3**2 + 282


def test_orthogonal_filters_of_any_length_are_not_penalised() -> None:
    rows = torch.nn.init.orthogonal_(torch.empty(3, 5, dtype=torch.float64))
    assert non_orthogonality([rows * torch.tensor([[0.1], [1.0], [7.0]])]) == pytest.approx(0.0, abs=1e-20)
    assert non_orthogonality([torch.randn(1, 8)]) == 0  # one filter has none to be orthogonal to


@pytest.mark.parametrize("shape", [(3, 2, 2), (7, 2, 2)])
def test_gradient_of_non_orthogonality_is_the_papers(shape: tuple[int, ...]) -> None:
    """4 (W W^T * (1 - I)) W, twice what Brock et al.'s code adds."""
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(non_orthogonality([weight]), weight)
    rows = weight.detach().flatten(1)
    expected = 4 * (rows @ rows.T * (1 - torch.eye(len(rows)))) @ rows
    torch.testing.assert_close(gradient.flatten(1), expected, rtol=1e-10, atol=1e-10)

"""Solvers and densities of ODEs, against solutions in closed form."""

import math

import pytest
import torch
from torch import Tensor

from models.parts.ode import integrate, integrate_density
from settings.sampling import Solver

EVALUATIONS = {"euler": 1, "heun": 2, "rk4": 4}  # of the velocity, in one step

A = torch.tensor([[0.3, -0.8], [0.5, -0.4]], dtype=torch.float64)


def linear(x: Tensor, time: float) -> Tensor:
    """A velocity that depends on the time; the ODE's solution is a matrix exponential of (t + t^2 / 2) A."""
    return (1 + time) * x @ A.T


def exactly(x: Tensor) -> Tensor:
    return x @ torch.linalg.matrix_exp(1.5 * A).T


@pytest.fixture
def points() -> Tensor:
    return torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_the_error_falls_with_the_solvers_order(solver: Solver, order: int, points: Tensor) -> None:
    errors = [
        (integrate(linear, points, [i / n for i in range(n + 1)], solver) - exactly(points)).abs().max().item()
        for n in (20, 40)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("solver", ["euler", "heun", "rk4"])
def test_a_step_evaluates_the_velocity_as_often_as_its_solver_says(solver: Solver, points: Tensor) -> None:
    times = []

    def counted(x: Tensor, time: float) -> Tensor:
        times.append(time)
        return linear(x, time)

    integrate(counted, points, [1.0, 0.5, 0.0], solver)
    assert len(times) == 2 * EVALUATIONS[solver]
    times.clear()
    integrate(counted, points, [1.0, 0.5, 0.0], solver, euler_end=True)
    assert len(times) == EVALUATIONS[solver] + 1
    assert 0.0 not in times


def test_the_way_back_leads_to_where_it_began(points: Tensor) -> None:
    times = [i / 20 for i in range(21)]
    there = integrate(linear, points, times, "rk4")
    torch.testing.assert_close(integrate(linear, there, times[::-1], "rk4"), points, rtol=0, atol=1e-6)


@pytest.mark.parametrize("probe", [False, True])
def test_a_gaussian_is_carried_to_a_gaussian_of_known_density(probe: bool, points: Tensor) -> None:
    """From data at time 1 to standard normal noise at time 0."""
    carry = torch.linalg.matrix_exp(1.5 * A)
    truth = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=torch.float64), carry @ carry.T)
    times = [1 - i / 40 for i in range(41)]
    if not probe:
        start, integral = integrate_density(linear, points, times, "rk4", None)
    else:  # all four pairs of signs, in equal shares, give the trace of a 2 x 2 matrix
        found = [
            integrate_density(linear, points, times, "rk4", torch.tensor(signs).double().expand_as(points))
            for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1))
        ]
        start, integral = found[0][0], torch.stack([f[1] for f in found]).mean(0)
        assert not torch.allclose(found[0][1], found[1][1]), "one probe is an estimate"
    log_prob = -0.5 * start.square().sum(1) - math.log(2 * math.pi) + integral
    torch.testing.assert_close(log_prob, truth.log_prob(points), rtol=0, atol=1e-6)


def test_a_solver_that_there_is_not_is_refused(points: Tensor) -> None:
    with pytest.raises(ValueError, match="solver must be euler, heun or rk4"):
        integrate(linear, points, [0.0, 1.0], "midpoint")  # type: ignore[arg-type]

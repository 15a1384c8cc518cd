"""Ordinary differential equations with fixed steps, and the change of a density along them."""

import itertools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from settings.fields import check_choice
from settings.sampling import Solver

Velocity: TypeAlias = Callable[[Tensor, float], Tensor]
"""The velocity (N, ...) at points (N, ...) and a time."""

State: TypeAlias = tuple[Tensor, ...]


def integrate(velocity: Velocity, x: Tensor, times: Sequence[float], solver: Solver, euler_end: bool = False) -> Tensor:
    """The points at times[-1] of paths that start from `x` (N, ...) at times[0].

    Times rise or fall, and each neighbouring pair is one step. `euler_end` makes the last step Euler's, for a velocity
    dx/dt that is undefined at the last time (Karras et al. 2022, alg. 1), where it is then never evaluated.
    """

    return _integrate(lambda state, time: (velocity(state[0], time),), (x,), times, solver, euler_end)[0]


def integrate_density(
    velocity: Velocity, x: Tensor, times: Sequence[float], solver: Solver, probe: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `integrate`, with the integral of the velocity's divergence along each path, (N,).

    For times from data to noise, log p(data) = log p(noise) + integral (Chen et al. 2018, theorem 1). The velocity of
    each sample must depend on that sample alone.

    `probe` holds values of mean 0 and variance 1, shaped as `x`, for Hutchinson's estimate of the divergence, the same
    along a whole path (Grathwohl et al. 2019, section 3.1). None computes the exact divergence, with one gradient for
    each value of a sample.
    """

    def change(state: State, time: float) -> State:
        with torch.enable_grad():
            at = state[0].detach().requires_grad_()
            speed = velocity(at, time)
            found = divergence(speed, at, probe)
        return speed.detach(), found

    end, integral = _integrate(change, (x, x.new_zeros(len(x))), times, solver)
    return end, integral


def divergence(speed: Tensor, at: Tensor, probe: Tensor | None) -> Tensor:
    """The divergence (N,) of `speed`, a function of `at`, both (N, ...); see `integrate_density`."""
    if probe is not None:
        (product,) = torch.autograd.grad(speed, at, probe)
        return (product * probe).flatten(1).sum(1)
    flat, total = speed.flatten(1), at.new_zeros(len(at))
    for i in range(flat.shape[1]):
        (row,) = torch.autograd.grad(flat[:, i].sum(), at, retain_graph=i + 1 < flat.shape[1])
        total = total + row.flatten(1)[:, i]
    return total


def _integrate(
    change: Callable[[State, float], State],
    state: State,
    times: Sequence[float],
    solver: Solver,
    euler_end: bool = False,
) -> State:
    check_choice("solver", solver, Solver)
    for i, (time, after) in enumerate(itertools.pairwise(times)):
        h = after - time
        first = change(state, time)
        if solver == "euler" or (euler_end and i == len(times) - 2):
            state = _moved(state, h, first)
        elif solver == "heun":
            second = change(_moved(state, h, first), after)
            state = _moved(state, h / 2, first, second)
        else:
            second = change(_moved(state, h / 2, first), time + h / 2)
            third = change(_moved(state, h / 2, second), time + h / 2)
            fourth = change(_moved(state, h, third), after)
            state = _moved(state, h / 6, first, second, second, third, third, fourth)
    return state


def _moved(state: State, h: float, *speeds: State) -> State:
    sums = (sum(several[1:], start=several[0]) for several in zip(*speeds, strict=True))
    return tuple(x + h * change for x, change in zip(state, sums, strict=True))

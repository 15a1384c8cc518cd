import itertools
import math

import pytest

from models.parts.schedules import Cosine, Linear, Schedule, value_at

BOTH = [Linear, Cosine]


@pytest.mark.parametrize("schedule", BOTH)
@pytest.mark.parametrize(("start", "end"), [(2e-4, 1e-5), (0.0, 1.0), (5.0, 0.3)])
def test_begins_at_start_and_ends_at_end(schedule: type[Linear | Cosine], start: float, end: float) -> None:
    it = schedule(start, end, kimg=40.0)
    assert it.at(0) == pytest.approx(start, rel=1e-15)
    assert it.at(40) == pytest.approx(end, rel=1e-15, abs=1e-16 * start)  # start + (end - start) rounds once


@pytest.mark.parametrize("schedule", BOTH)
def test_is_constant_outside_its_stretch(schedule: type[Linear | Cosine]) -> None:
    it = schedule(3.0, 1.0, kimg=40.0)
    assert it.at(-5) == it.at(0)
    assert it.at(1e9) == it.at(41) == it.at(40)


@pytest.mark.parametrize("schedule", BOTH)
@pytest.mark.parametrize(("start", "end"), [(3.0, 1.0), (1.0, 3.0)])
def test_is_strictly_monotone(schedule: type[Linear | Cosine], start: float, end: float) -> None:
    it = schedule(start, end, kimg=40.0)
    values = [it.at(kimg) * math.copysign(1, end - start) for kimg in range(41)]
    assert all(a < b for a, b in itertools.pairwise(values))


@pytest.mark.parametrize("progress", [0.1, 0.25, 0.5, 0.9])
def test_linear_is_a_straight_line(progress: float) -> None:
    assert Linear(3.0, 1.0, kimg=40.0).at(40 * progress) == pytest.approx(3.0 - 2.0 * progress, rel=1e-14)


@pytest.mark.parametrize("progress", [0.1, 0.25, 0.5, 0.9])
def test_cosine_is_equation_5_of_sgdr(progress: float) -> None:
    expected = 1.0 + (3.0 - 1.0) / 2 * (1 + math.cos(math.pi * progress))
    assert Cosine(3.0, 1.0, kimg=40.0).at(40 * progress) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("schedule", BOTH)
@pytest.mark.parametrize("kimg", [0, -1.0])
def test_stretch_must_be_positive(schedule: type[Linear | Cosine], kimg: float) -> None:
    with pytest.raises(ValueError, match="kimg of a schedule must be positive"):
        schedule(1.0, 0.0, kimg)


@pytest.mark.parametrize(("setting", "expected"), [(0.25, 0.25), (Linear(0.0, 1.0, kimg=2.0), 0.75)])
def test_value_at_reads_numbers_and_schedules_in_samples(setting: float | Schedule, expected: float) -> None:
    assert value_at(setting, samples_seen=1500) == expected

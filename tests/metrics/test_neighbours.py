from pathlib import Path

import numpy as np
import pytest
import torch

import metrics.neighbours
from metrics.neighbours import NeighbourFigures, nearest, neighbour_distances, neighbour_figures


def features(count: int, dimension: int = 8, seed: int = 0, offset: float = 3.0, scale: float = 1.0) -> np.ndarray:
    """Correlated, skewed, offset features, as networks give them."""
    draws = np.random.default_rng(seed).standard_normal((count, dimension))
    mixing = np.random.default_rng(99).standard_normal((dimension, dimension))
    return (scale * np.maximum(draws @ mixing, 0) + offset).astype(np.float32)


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)[:, None]


def all_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Every pair's, from the differences themselves."""
    return np.sqrt(np.square(x[:, None].astype(np.float64) - y[None]).sum(axis=2))


def by_definition(generated: np.ndarray, real: np.ndarray) -> NeighbourFigures:
    """The papers' formulas, pair by pair."""
    across = all_distances(real, generated)
    real_sorted, generated_sorted = (
        np.sort(all_distances(real, real), 1),
        np.sort(all_distances(generated, generated), 1),
    )
    dense = across < real_sorted[:, 5, None]
    return NeighbourFigures(
        precision=float((across <= real_sorted[:, 3, None]).any(0).mean()),
        recall=float((across <= generated_sorted[None, :, 3]).any(1).mean()),
        density=float(dense.sum() / (5 * len(generated))),
        coverage=float(dense.any(1).mean()),
    )


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks a set, the last one short, at a size that tests can afford."""
    monkeypatch.setattr(metrics.neighbours, "BLOCK", 64)


# Distances to neighbours


def test_distances_on_a_line() -> None:
    expected = [[1, 3, 7], [1, 2, 6], [2, 3, 4], [4, 6, 7]]
    np.testing.assert_array_equal(neighbour_distances(column(0, 1, 3, 7), 3), expected)


def test_nearest_on_a_line() -> None:
    distances, indices = nearest(column(2.9, 0.5), column(0, 1, 3, 7), 3)
    np.testing.assert_allclose(distances, [[0.1, 1.9, 2.9], [0.5, 0.5, 2.5]], rtol=1e-6)
    np.testing.assert_array_equal(indices, [[2, 1, 0], [0, 1, 2]])
    assert (distances.dtype, indices.dtype) == (np.float64, np.int64)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_distances_are_those_of_the_differences_to_the_last_bit(offset: float) -> None:
    x, y = features(300, offset=offset), features(150, seed=1, offset=offset)
    own = np.sort(all_distances(x, x), axis=1)[:, 1:6]
    np.testing.assert_allclose(neighbour_distances(x, 5), own, rtol=1e-14)
    distances, indices = nearest(y, x, 4)
    across = all_distances(y, x)
    np.testing.assert_allclose(distances, np.sort(across, axis=1)[:, :4], rtol=1e-14)
    np.testing.assert_allclose(np.take_along_axis(across, indices, 1), distances, rtol=1e-14)


@pytest.mark.usefixtures("small_blocks")
def test_a_copied_row_is_found_at_distance_zero() -> None:
    """|x|² + |y|² - 2 x·y would leave 1e-4 or so of such features in float32."""
    rows = features(300, 64, offset=100)
    distances, indices = nearest(rows[[250, 3]], rows, 2)
    assert distances[:, 0].tolist() == [0, 0]
    assert indices[:, 0].tolist() == [250, 3]
    assert (distances[:, 1] > 0).all()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("spread", [1e-7, 1e-5, 1e-3])
@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_what_float32_cannot_tell_apart_is_settled_in_float64(spread: float, offset: float) -> None:
    """Two tight clusters far apart: no common centre helps, and within one the products all look alike.

    The tightest are beyond float64's products too, and only their differences tell.
    """
    draws = np.random.default_rng(0)
    x = np.repeat([[-100.0], [100.0]], 100, axis=0) + spread * draws.standard_normal((200, 8)) + offset
    own = np.sort(all_distances(x, x), axis=1)[:, 1:6]  # float64 rows, which float32 could not even hold
    np.testing.assert_allclose(neighbour_distances(x, 5), own, rtol=1e-9)
    y = x + spread * draws.standard_normal((200, 8))
    assert neighbour_figures(x, y) == by_definition(x, y)


def test_a_mapped_file_gives_the_same(tmp_path: Path) -> None:
    x, y = features(50), features(40, seed=1)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    np.testing.assert_array_equal(neighbour_distances(mapped, 3), neighbour_distances(x, 3))
    assert neighbour_figures(mapped, y) == neighbour_figures(x, y)


# Figures


def test_figures_by_hand_on_a_line() -> None:
    """k = 1 throughout. Real 0, 1, 5 have radii 1, 1, 4; generated 0.5, 1.5, 20 have 1, 1, 18.5.

    0.5 is within 1 of 0 and of 1, 1.5 is within 1 of 1 and within 4 of 5, 20 is in no ball: precision 2/3 and density
    4/3. 0 and 1 are within 1 of 0.5, and 5 is within 18.5 of 20: recall 1. Every real ball holds one: coverage 1.
    """
    figures = neighbour_figures(column(0.5, 1.5, 20), column(0, 1, 5), precision_neighbours=1, density_neighbours=1)
    assert figures == NeighbourFigures(pytest.approx(2 / 3), 1.0, pytest.approx(4 / 3), 1.0)


def test_figures_by_hand_in_the_plane() -> None:
    """k = 1. Real at the corners of a unit square, so of radius 1; one generated point near a corner, one far off."""
    real = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], dtype=np.float32)
    generated = np.array([[-0.5, -0.5], [9, 9]], dtype=np.float32)
    figures = neighbour_figures(generated, real, precision_neighbours=1, density_neighbours=1)
    # The generated balls reach √(2 · 9.5²) and so over the square.
    assert figures == NeighbourFigures(precision=0.5, recall=1.0, density=0.5, coverage=0.25)


def test_on_the_surface_is_inside_for_precision_and_outside_for_density() -> None:
    """Real 0, 1, 3 have radii 1, 1, 2; generated 2 lies 1 from both 1 and 3, and -7 in no ball."""
    figures = neighbour_figures(column(2, -7), column(0, 1, 3), precision_neighbours=1, density_neighbours=1)
    assert figures.precision == 0.5
    assert figures.density == 0.5  # in the ball of 3 alone
    assert figures.coverage == pytest.approx(1 / 3)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_a_copy_of_the_real_set_has_every_figure_at_one(offset: float) -> None:
    real = features(200, 32, offset=offset)
    shuffled = real[np.random.default_rng(0).permutation(200)]
    assert neighbour_figures(shuffled, real) == NeighbourFigures(1.0, 1.0, 1.0, 1.0)


def test_a_copy_of_data_that_repeat_themselves_is_covered() -> None:
    """Ten equal rows have a radius of 0; each ball still holds its centre."""
    real = np.concatenate([np.repeat(features(1), 10, axis=0), features(50, seed=1)])
    figures = neighbour_figures(real.copy(), real)
    assert (figures.precision, figures.recall, figures.coverage) == (1.0, 1.0, 1.0)


@pytest.mark.usefixtures("small_blocks")
def test_a_collapsed_model_has_no_recall() -> None:
    real = features(300, 32)
    inside = np.repeat(real[:1] + np.float32(1e-3), 200, axis=0)
    figures = neighbour_figures(inside, real)
    assert (figures.precision, figures.recall) == (1.0, 0.0)
    assert figures.coverage < 0.2
    outside = np.repeat(real[:1] + np.float32(1e3), 200, axis=0)
    assert neighbour_figures(outside, real) == NeighbourFigures(0.0, 0.0, 0.0, 0.0)
    # All on one real row: that one is recalled, and no other.
    assert neighbour_figures(np.repeat(real[:1], 200, axis=0), real).recall == 1 / 300


def test_equal_rows_are_measured_once() -> None:
    """Both sets collapsed: every pair is open, and measuring each would take hours at 50,000 rows."""

    class Counted(np.ndarray):
        loaded = 0

        def __getitem__(self, key: np.ndarray) -> np.ndarray:
            rows = np.asarray(self).__getitem__(key)
            Counted.loaded += len(rows)
            return rows

    rows = np.repeat(features(1), 400, axis=0)
    figures = neighbour_figures(rows.view(Counted), rows)
    assert (figures.precision, figures.recall, figures.coverage) == (1.0, 1.0, 1.0)
    assert 0 < Counted.loaded < 20 * 400


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("generated", [features(150, seed=1), features(300, seed=1, scale=0.5), features(90, offset=4)])
def test_figures_are_the_definitions(generated: np.ndarray) -> None:
    real = features(200)
    expected = by_definition(generated, real)
    figures = neighbour_figures(generated, real)
    assert figures == expected
    assert neighbour_figures(generated, real, real_distances=neighbour_distances(real, 7)) == expected
    assert neighbour_figures(generated * 2.0**40, real * 2.0**40) == expected
    assert neighbour_figures(generated * 2.0**-40, real * 2.0**-40) == expected


def test_precision_of_a_narrow_model_and_recall_of_a_wide_one() -> None:
    real, draws = np.random.default_rng(0).standard_normal((2, 400, 4))
    few, many = neighbour_figures(0.3 * draws, real), neighbour_figures(3 * draws, real)
    assert few.precision > many.precision + 0.3
    assert many.recall > few.recall + 0.3
    assert few.density > 1 > many.density


# Errors


def test_what_cannot_be_computed_is_said_in_a_line() -> None:
    x, y = features(20), features(30, seed=1)
    with pytest.raises(ValueError, match="3 generated rows have no neighbour number 3; take at least 4"):
        neighbour_figures(x[:3], y)
    with pytest.raises(ValueError, match="5 real rows have no neighbour number 5; take at least 6"):
        neighbour_figures(x, y[:5])
    with pytest.raises(ValueError, match="4 rows have no neighbour number 4"):
        neighbour_distances(x[:4], 4)
    with pytest.raises(ValueError, match="counted from 1, not 0"):
        neighbour_distances(x, 0)
    with pytest.raises(ValueError, match="20 rows do not have 21 nearest"):
        nearest(y, x, 21)
    with pytest.raises(ValueError, match="generated of dimension 8 and real of 7"):
        neighbour_figures(x, y[:, :7])
    with pytest.raises(ValueError, match="queries of dimension 8 and rows of 7"):
        nearest(x, y[:, :7], 1)
    with pytest.raises(ValueError, match=r"rows: expected shape \(N, D\)"):
        neighbour_distances(x[0], 1)
    with pytest.raises(ValueError, match=r"real_distances: expected \(30, 5 or more\), got \(20, 5\)"):
        neighbour_figures(x, y, real_distances=neighbour_distances(x, 5))
    broken = y.copy()
    broken[3, 1], broken[4, 2], broken[4, 3] = np.nan, np.inf, -np.inf
    with pytest.raises(ValueError, match="rows: 2 of 30 rows hold NaN or infinity"):
        neighbour_distances(broken, 1)
    with pytest.raises(ValueError, match="queries: 2 of 30 rows hold NaN or infinity"):
        nearest(broken, x, 1)


# References


def test_equals_torch_fidelitys_precision_and_recall() -> None:
    metric_prc = pytest.importorskip("torch_fidelity.metric_prc", reason="torch-fidelity is an optional reference")
    generated, real = features(700, 64, seed=1, scale=0.9), features(600, 64)
    # In float64: in float32 it takes pairs for nearer or farther than they are.
    rows = (torch.from_numpy(x).double() for x in (generated, real))
    theirs = metric_prc.prc_features_to_metric(*rows, verbose=False)
    ours = neighbour_figures(generated, real)
    assert 0.1 < ours.recall < ours.precision < 1
    assert ours.precision == pytest.approx(theirs["precision"], rel=1e-6)
    assert ours.recall == pytest.approx(theirs["recall"], rel=1e-6)


def test_equals_prdcs_density_and_coverage() -> None:
    prdc = pytest.importorskip("prdc", reason="prdc is an optional reference")
    generated, real = features(700, 64, seed=1, scale=0.9), features(600, 64)
    theirs = prdc.compute_prdc(real.astype(np.float64), generated.astype(np.float64), nearest_k=5)
    ours = neighbour_figures(generated, real, precision_neighbours=5)
    for name in ("precision", "recall", "density", "coverage"):
        assert getattr(ours, name) == pytest.approx(theirs[name], rel=1e-6)

from pathlib import Path

import numpy as np
import pytest
import torch

from metrics.kernel import kernel_distance, squared_discrepancy


def features(count: int, dimension: int = 16, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    """Skewed and offset, as networks give them."""
    draws = np.random.default_rng(seed).standard_normal((count, dimension))
    return (np.maximum(draws, 0) + shift).astype(np.float32)


def test_by_hand_with_two_rows_in_one_dimension() -> None:
    """k(x, y) = (xy + 1)³: k(1, 2) = 27 within x, k(0, 1) = 1 within y; across 1, 8, 1 and 27."""
    x, y = np.array([[1.0], [2.0]]), np.array([[0.0], [1.0]])
    assert squared_discrepancy(x, y) == 27 + 1 - 2 * (1 + 8 + 1 + 27) / 4


def test_the_scale_is_one_over_the_dimension() -> None:
    x, y = np.array([[1.0], [2.0]]), np.array([[0.0], [1.0]])
    assert squared_discrepancy(np.repeat(x, 5, 1), np.repeat(y, 5, 1)) == pytest.approx(squared_discrepancy(x, y))


def test_one_subset_of_all_rows_is_the_whole_estimate() -> None:
    x, y = features(20), features(20, seed=1)
    mean, error = kernel_distance(x, y, subsets=1, subset_size=20)
    assert mean == pytest.approx(squared_discrepancy(x.astype(np.float64), y.astype(np.float64)), rel=1e-12)
    assert error == 0


def test_is_unbiased_so_zero_for_equal_distributions_and_below_it_half_the_time() -> None:
    x, y = features(40_000, 4), features(40_000, 4, seed=1)
    values = np.array(
        [squared_discrepancy(x[i : i + 100].astype(float), y[i : i + 100].astype(float)) for i in range(0, 40_000, 100)]
    )
    error = values.std() / len(values) ** 0.5
    assert abs(values.mean()) < 4 * error
    assert 0.3 < (values < 0).mean() < 0.75
    shifted = features(40_000, 4, seed=1, shift=0.2)
    assert kernel_distance(x, shifted, subsets=20, subset_size=100)[0] > 20 * error


def test_equal_rows_are_not_equal_sets() -> None:
    """Unlike the biased one, the unbiased estimate leaves out the diagonal: of a copy it is below 0."""
    x = features(50)
    assert kernel_distance(x, x, subsets=5, subset_size=50)[0] < 0


def test_the_standard_error_is_that_of_the_mean_over_subsets() -> None:
    x, y = features(2000), features(2000, seed=1, shift=0.1)
    figures = [kernel_distance(x, y, subsets=25, subset_size=50, seed=seed) for seed in range(40)]
    means, errors = zip(*figures, strict=True)
    assert 0.6 < np.std(means) / np.mean(errors) < 1.5


def test_seed_and_order_of_rows() -> None:
    x, y = features(200), features(300, seed=1)
    first = kernel_distance(x, y, subsets=3, subset_size=100)
    assert kernel_distance(x, y, subsets=3, subset_size=100) == first
    assert kernel_distance(x, y, subsets=3, subset_size=100, seed=1)[0] != first[0]


def test_a_mapped_file_is_read_subset_by_subset(tmp_path: Path) -> None:
    x, y = features(200), features(300, seed=1)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert kernel_distance(mapped, y, subsets=3, subset_size=50) == kernel_distance(x, y, subsets=3, subset_size=50)

    class Counted(np.ndarray):
        most = 0

        def __getitem__(self, key: np.ndarray) -> np.ndarray:
            rows = np.asarray(self).__getitem__(key)
            Counted.most = max(Counted.most, len(rows))
            return rows

    kernel_distance(x.view(Counted), y, subsets=3, subset_size=50)
    assert Counted.most == 50


def test_what_cannot_be_computed_is_said_in_a_line() -> None:
    x = features(30)
    with pytest.raises(
        ValueError, match="real: 30 rows are fewer than a subset's 1000; take more samples or a smaller"
    ):
        kernel_distance(features(2000), x)
    with pytest.raises(ValueError, match="dimension 16 and real of 15"):
        kernel_distance(x, x[:, :15], subset_size=10)
    with pytest.raises(ValueError, match="1 subset of 2 rows"):
        kernel_distance(x, x, subset_size=1)
    with pytest.raises(ValueError, match=r"generated: expected shape \(N, D\)"):
        kernel_distance(x[0], x, subset_size=10)
    broken = x.copy()
    broken[3, 1], broken[4, 2] = np.nan, np.inf
    with pytest.raises(ValueError, match="generated: 2 of 30 rows drawn hold NaN or infinity"):
        kernel_distance(broken, x, subset_size=30)


def test_equals_torch_fidelity_on_the_same_draws() -> None:
    """In float64, to rounding: in float32 it would be off by whatever its products round to on this processor."""
    metric_kid = pytest.importorskip("torch_fidelity.metric_kid", reason="torch-fidelity is an optional reference")
    x, y = features(700, 128), features(900, 128, seed=1, shift=0.1)
    theirs = metric_kid.kid_features_to_metric(
        torch.from_numpy(x).double(),
        torch.from_numpy(y).double(),
        kid_subsets=10,
        kid_subset_size=300,
        rng_seed=2020,
        verbose=False,
    )
    mean, error = kernel_distance(x, y, subsets=10, subset_size=300)
    assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-10)
    assert error * 10**0.5 == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-10)

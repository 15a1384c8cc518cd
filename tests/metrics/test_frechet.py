import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

import metrics.frechet
from metrics.frechet import GaussianStatistics, frechet_distance


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def statistics(features: Tensor) -> GaussianStatistics:
    result = GaussianStatistics.empty(features.shape[1])
    result.update(features)
    return result


def exactly(mean: Tensor, covariance: Tensor, count: int = 1000) -> GaussianStatistics:
    return GaussianStatistics(count, mean, covariance * (count - 1))


def features(count: int, dimension: int, seed: int = 0) -> Tensor:
    """Correlated, skewed, offset features, as networks give them."""
    draws = torch.randn(count, dimension, dtype=torch.float64, generator=generator(seed))
    mixing = torch.randn(dimension, dimension, dtype=torch.float64, generator=generator(99))
    return (draws @ mixing).relu() + 3


def rotation(dimension: int) -> Tensor:
    return torch.linalg.qr(torch.randn(dimension, dimension, dtype=torch.float64, generator=generator(5)))[0]


def by_eigenvalues_of_the_product(a: GaussianStatistics, b: GaussianStatistics) -> float:
    """The formula as printed: Tr (Σa Σb)^½ from the (unsymmetric) product's own eigenvalues."""
    sa, sb = a.covariance(), b.covariance()
    root_trace = torch.linalg.eigvals(sa @ sb).sqrt().real.sum()
    return float((a.mean - b.mean).square().sum() + sa.trace() + sb.trace() - 2 * root_trace)


# Statistics


def test_mean_and_covariance_are_numpys() -> None:
    x = features(50, 7)
    result = statistics(x)
    assert result.count == 50
    np.testing.assert_allclose(result.mean, np.mean(x.numpy(), axis=0), rtol=1e-12)
    np.testing.assert_allclose(result.covariance(), np.cov(x.numpy(), rowvar=False), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("sizes", [[100], [1] * 100, [1, 0, 98, 1], [37, 37, 26]])
def test_any_split_gives_the_same_statistics(sizes: list[int]) -> None:
    x = features(100, 7) + 1e4  # far from zero, where sums of squares would lose all their digits
    whole = statistics(x)
    updated, merged = GaussianStatistics.empty(7), GaussianStatistics.empty(7)
    for chunk in x.split(sizes):
        updated.update(chunk)
        merged.merge(statistics(chunk))
    for result in (updated, merged):
        assert result.count == 100
        torch.testing.assert_close(result.mean, whole.mean, rtol=1e-10, atol=0)
        scale = float(whole.scatter.abs().max())
        torch.testing.assert_close(result.scatter, whole.scatter, rtol=1e-10, atol=1e-10 * scale)


def test_float32_features_are_gathered_in_float64() -> None:
    x = features(100, 7).float()
    assert torch.equal(statistics(x).scatter, statistics(x.double()).scatter)


def test_state_goes_there_and_back_and_is_not_changed_later() -> None:
    result = statistics(features(20, 3))
    state = result.state()
    copy = {name: value.clone() for name, value in state.items()}
    again = GaussianStatistics.from_state(state)
    again.update(features(20, 3, seed=1))
    assert again.count == 40
    assert all(torch.equal(state[name], copy[name]) for name in ("count", "mean", "scatter"))


def test_bad_features_are_refused_and_leave_no_trace() -> None:
    result = statistics(features(20, 3))
    before = result.mean.clone()
    x = features(4, 3)
    x[0, 0], x[0, 1], x[2, 1] = torch.nan, torch.inf, -torch.inf
    with pytest.raises(ValueError, match="2 of 4 hold NaN or infinity"):
        result.update(x)
    with pytest.raises(ValueError, match=r"expected shape \(N, 3\), got \(4, 2\)"):
        result.update(x[:, :2])
    with pytest.raises(ValueError, match="dimensions 3 and 4"):
        result.merge(GaussianStatistics.empty(4))
    assert result.count == 20
    assert torch.equal(result.mean, before)


def test_one_sample_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="1 samples"):
        statistics(features(1, 3)).covariance()


# Distance


def test_closed_form_in_one_dimension() -> None:
    a = exactly(torch.tensor([1.0]).double(), torch.tensor([[4.0]]).double())
    b = exactly(torch.tensor([-2.0]).double(), torch.tensor([[9.0]]).double())
    assert frechet_distance(a, b) == pytest.approx(9 + (2 - 3) ** 2, rel=1e-14)


@pytest.mark.parametrize("rotated", [False, True])
def test_closed_form_for_commuting_covariances(rotated: bool) -> None:
    dimension = 12
    basis = rotation(dimension) if rotated else torch.eye(dimension, dtype=torch.float64)
    va, vb = torch.rand(2, dimension, dtype=torch.float64, generator=generator(1)) + 0.01
    ma, mb = torch.randn(2, dimension, dtype=torch.float64, generator=generator(2))
    a, b = exactly(ma, (basis * va) @ basis.T), exactly(mb, (basis * vb) @ basis.T)
    expected = float((ma - mb).square().sum() + (va.sqrt() - vb.sqrt()).square().sum())
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_equals_the_formula_as_printed() -> None:
    a, b = statistics(features(200, 20)), statistics(features(150, 20, seed=1) * 1.1)
    assert frechet_distance(a, b) == pytest.approx(by_eigenvalues_of_the_product(a, b), rel=1e-10)


def test_equals_scipys_matrix_root() -> None:
    linalg = pytest.importorskip("scipy.linalg", reason="scipy is an optional reference")
    a, b = statistics(features(200, 20)), statistics(features(150, 20, seed=1) * 1.1)
    root = linalg.sqrtm((a.covariance() @ b.covariance()).numpy())
    expected = float((a.mean - b.mean).square().sum() + a.covariance().trace() + b.covariance().trace())
    assert frechet_distance(a, b) == pytest.approx(expected - 2 * np.trace(root).real, rel=1e-9)


def test_is_symmetric_and_does_not_see_rotations() -> None:
    x, y, turn = features(200, 20), features(150, 20, seed=1), rotation(20)
    distance = frechet_distance(statistics(x), statistics(y))
    assert distance > 0.1
    assert frechet_distance(statistics(y), statistics(x)) == pytest.approx(distance, rel=1e-11)
    assert frechet_distance(statistics(x @ turn), statistics(y @ turn)) == pytest.approx(distance, rel=1e-10)


@pytest.mark.parametrize("count", [30, 400])
def test_zero_for_identical_and_the_shift_for_shifted(count: int) -> None:
    x = features(count, 100)
    a = statistics(x)
    scale = float(a.covariance().trace())
    assert 0 <= frechet_distance(a, a) < 1e-12 * scale
    assert frechet_distance(a, statistics(x + 0.5)) == pytest.approx(100 * 0.25, abs=1e-11 * scale)


def test_fewer_samples_than_dimensions() -> None:
    """Two covariances on orthogonal subspaces: the cross term is zero, and rounding must not fill it."""
    turn = rotation(64)
    x = torch.zeros(20, 64, dtype=torch.float64)
    y = x.clone()
    x[:, :10] = torch.randn(20, 10, dtype=torch.float64, generator=generator(1))
    y[:, 10:20] = torch.randn(20, 10, dtype=torch.float64, generator=generator(2))
    a, b = statistics(x @ turn), statistics(y @ turn)
    expected = float((a.mean - b.mean).square().sum() + a.covariance().trace() + b.covariance().trace())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_constant_features_differ_by_their_means_alone() -> None:
    a, b = statistics(torch.ones(5, 3)), statistics(torch.full((4, 3), 3.0))
    assert frechet_distance(a, b) == 12
    assert frechet_distance(a, a) == 0


def test_distance_needs_two_samples_and_one_dimension() -> None:
    a = statistics(features(20, 3))
    with pytest.raises(ValueError, match="1 samples"):
        frechet_distance(a, statistics(features(1, 3)))
    with pytest.raises(ValueError, match="dimensions 3 and 4"):
        frechet_distance(a, statistics(features(20, 4)))


def test_features_that_never_vary_change_nothing() -> None:
    """A collapsed model leaves most features constant; the distance is that of the rest and of the means."""
    generator = torch.Generator().manual_seed(0)
    few = [torch.randn(50, 3, generator=generator, dtype=torch.float64) * scale for scale in (1.0, 2.0)]
    many = [torch.full((50, 200), 0.25, dtype=torch.float64) for _ in range(2)]
    for wide, narrow in zip(many, few, strict=True):
        wide[:, [3, 50, 199]] = narrow
    distances = []
    for pair in (few, many):
        statistics = [GaussianStatistics.empty(features.shape[1]) for features in pair]
        for gathered, features in zip(statistics, pair, strict=True):
            gathered.update(features)
        distances.append(frechet_distance(*statistics))
    assert distances[1] == pytest.approx(distances[0], rel=1e-12)
    constant = GaussianStatistics.empty(200)
    constant.update(torch.full((50, 200), 0.25))
    assert frechet_distance(constant, constant) == 0.0


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows with every call of the slow way."""
    calls: list[int] = []
    careful = metrics.frechet._careful_root_trace

    def call(a: Tensor, b: Tensor) -> float:
        calls.append(len(a))
        return careful(a, b)

    monkeypatch.setattr(metrics.frechet, "_careful_root_trace", call)
    return calls


def by_singular_values(a: GaussianStatistics, b: GaussianStatistics) -> float:
    """The slow and careful way, whatever the quick one says."""
    root_trace = metrics.frechet._careful_root_trace(a.covariance(), b.covariance())
    apart = (a.mean - b.mean).square().sum() + a.covariance().trace() + b.covariance().trace()
    return float(apart) - 2 * root_trace


def test_where_a_feature_varies_in_one_set_only() -> None:
    """Independent features: the closed form sums over each, (μa - μb)² + (σa - σb)²."""
    deviations_a, deviations_b = torch.tensor([1.0, 2, 3, 0]).double(), torch.tensor([2.0, 0, 1, 0]).double()
    mean = torch.tensor([1e3, 2e3, 3e3, 4e3]).double()
    a, b = exactly(mean, deviations_a.square().diag()), exactly(mean, deviations_b.square().diag())
    assert frechet_distance(a, b) == pytest.approx(1 + 4 + 4, rel=1e-13)


def test_constants_that_rounding_spreads_are_constants() -> None:
    """0.1 has no exact mean: the scatter is 1e-33, not 0, and its root 1e-17, not to be divided by."""
    x, y = features(60, 5), features(60, 5, seed=1)
    constant = torch.full((60, 40), 0.1, dtype=torch.float64).cumsum(1)
    wide = frechet_distance(statistics(torch.cat([x, constant], 1)), statistics(torch.cat([y, constant], 1)))
    assert wide == pytest.approx(frechet_distance(statistics(x), statistics(y)), rel=1e-11)


@pytest.mark.parametrize(("count_a", "count_b"), [(900, 700), (900, 100), (100, 900), (90, 130)])
def test_the_quick_way_is_the_careful_one_to_rounding(
    monkeypatch: pytest.MonkeyPatch, count_a: int, count_b: int
) -> None:
    """Above the block of the triangular product, and with either set, or both, of too few samples for full rank."""
    a, b = statistics(features(count_a, 300)), statistics(features(count_b, 300, seed=1) * 1.1)
    expected = by_singular_values(a, b)
    calls = counted(monkeypatch)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-11)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-11)
    assert not calls


@pytest.mark.parametrize("collapsed", ["both", "one"])
def test_a_rank_below_what_the_count_promises_leaves_no_rounding(
    monkeypatch: pytest.MonkeyPatch, collapsed: str
) -> None:
    """Five pictures repeated: of the 60 eigenvalues all but four are rounding, and their roots 1e-8 of the largest."""
    a = statistics(features(5, 60, seed=1).repeat(40, 1) if collapsed == "both" else features(200, 60, seed=1))
    b = statistics(features(5, 60).repeat(40, 1))
    calls = counted(monkeypatch)
    distance = frechet_distance(a, b)
    assert bool(calls) == (collapsed == "one")  # the factors of both show their rank by themselves
    factors = [metrics.frechet._factor(one.covariance()) for one in (a, b)]
    root_trace = torch.linalg.svdvals(factors[0].T @ factors[1])[:4].sum()
    apart = (a.mean - b.mean).square().sum() + a.covariance().trace() + b.covariance().trace()
    assert distance == pytest.approx(float(apart - 2 * root_trace), rel=1e-11)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5, 3.0])
def test_steep_spectra_keep_their_digits(exponent: float) -> None:
    """Deviations that fall by up to eight orders of magnitude, and sets so alike that the traces all but cancel.

    Commuting covariances, whose distance is known: Σ (σa - σb)².
    """
    dimension = 300
    deviations = torch.arange(1.0, dimension + 1, dtype=torch.float64) ** -exponent
    others = deviations * (1.02 + 0.01 * torch.sin(torch.arange(dimension)))
    turn, mean = rotation(dimension), torch.zeros(dimension, dtype=torch.float64)
    a = exactly(mean, turn @ deviations.square().diag() @ turn.T)
    b = exactly(mean, turn @ others.square().diag() @ turn.T)
    assert frechet_distance(a, b) == pytest.approx(float((deviations - others).square().sum()), rel=1e-8, abs=1e-11)


def test_an_eigh_that_does_not_converge_is_done_by_svd(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = statistics(features(20, 60)), statistics(features(30, 60, seed=1))
    expected = frechet_distance(a, b)

    def fail(block: torch.Tensor) -> None:
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "eigh", fail)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("count", [1000, 150])
def test_equals_torch_fidelity(count: int) -> None:
    metric_fid = pytest.importorskip("torch_fidelity.metric_fid", reason="torch-fidelity is an optional reference")
    x, y = features(1000, 200).float(), features(count, 200, seed=1).float() * 1.1
    theirs = metric_fid.fid_statistics_to_metric(
        *(metric_fid.fid_features_to_statistics(rows.double()) for rows in (x, y)), verbose=False
    )
    # With fewer samples than dimensions its eigenvalues that ought to be zero are roots of rounding errors.
    tolerance = 1e-10 if count > 200 else 1e-6
    ours = frechet_distance(statistics(x), statistics(y))
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=tolerance)

import numpy as np
import pytest
import torch
from torch import Tensor

from metrics.discriminant import DiscriminantStatistics, LinearDiscriminant, class_accuracy


def data(count: int, classes: int = 3, dimension: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Classes that overlap, with one correlated covariance, far from zero."""
    draws = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(99)
    means = 1.5 * torch.randn(classes, dimension, dtype=torch.float64, generator=fixed) + 100
    mixing = torch.randn(dimension, dimension, dtype=torch.float64, generator=fixed)
    labels = torch.arange(count) % classes
    return means[labels] + torch.randn(count, dimension, dtype=torch.float64, generator=draws) @ mixing, labels


def gathered(features: Tensor, labels: Tensor, classes: int = 3) -> DiscriminantStatistics:
    result = DiscriminantStatistics.empty(classes, features.shape[1])
    result.update(features, labels)
    return result


def test_statistics_are_means_and_the_scatter_within_classes() -> None:
    features, labels = data(90)
    result = gathered(features, labels)
    assert result.counts.tolist() == [30, 30, 30]
    scatter = torch.zeros(6, 6, dtype=torch.float64)
    for label in range(3):
        own = features[labels == label]
        torch.testing.assert_close(result.means[label], own.mean(0))
        scatter += torch.from_numpy(np.cov(own.numpy(), rowvar=False)) * (len(own) - 1)
    torch.testing.assert_close(result.scatter, scatter)


@pytest.mark.parametrize("sizes", [[100], [1] * 100, [1, 0, 98, 1], [37, 37, 26]])
def test_any_split_gives_the_same_statistics(sizes: list[int]) -> None:
    features, labels = data(100)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    features, labels = features[order] + 1e4, labels[order]
    whole = gathered(features, labels)
    updated, merged = DiscriminantStatistics.empty(3, 6), DiscriminantStatistics.empty(3, 6)
    for x, y in zip(features.split(sizes), labels.split(sizes), strict=True):
        updated.update(x, y)
        merged.merge(gathered(x, y))
    for result in (updated, merged):
        assert torch.equal(result.counts, whole.counts)
        torch.testing.assert_close(result.means, whole.means, rtol=1e-11, atol=0)
        torch.testing.assert_close(result.scatter, whole.scatter, rtol=1e-9, atol=1e-9 * float(whole.scatter.max()))


def test_the_boundary_of_two_round_classes_lies_halfway() -> None:
    features = torch.tensor([[-1.0], [1.0], [3.0], [5.0]])
    classifier = LinearDiscriminant.fitted(gathered(features, torch.tensor([0, 0, 1, 1]), 2))
    assert classifier.predict(torch.tensor([[-9.0], [1.99], [2.01], [9.0]])).tolist() == [0, 0, 1, 1]


def test_the_shared_covariance_turns_the_boundary() -> None:
    """Along an axis that varies widely within classes distance counts for less; shrunk to a sphere, all count alike."""
    features = torch.tensor([[-10.0, 0.0], [10.0, 0.0], [-6.0, 2.0], [14.0, 2.0], [0.0, -0.1], [4.0, 2.1]])
    statistics = gathered(features, torch.tensor([0, 0, 1, 1, 0, 1]), 2)
    asked = torch.tensor([[9.0, 0.5]])
    assert LinearDiscriminant.fitted(statistics, shrinkage=1e-3).predict(asked).tolist() == [0]
    assert LinearDiscriminant.fitted(statistics, shrinkage=1.0).predict(asked).tolist() == [1]


def test_rare_classes_are_as_likely_as_others() -> None:
    features = torch.tensor([[-1.0], [1.0]] * 100 + [[3.0], [5.0]])
    classifier = LinearDiscriminant.fitted(gathered(features, torch.tensor([0] * 200 + [1] * 2), 2))
    assert classifier.predict(torch.tensor([[1.99], [2.01]])).tolist() == [0, 1]


def test_fewer_samples_than_dimensions_and_classes_that_do_not_vary() -> None:
    features, labels = data(9, dimension=40)
    classifier = LinearDiscriminant.fitted(gathered(features, labels))
    assert classifier.predict(features).tolist() == labels.tolist()
    constant = torch.tensor([[0.0, 1.0], [3.0, 1.0]])
    classifier = LinearDiscriminant.fitted(gathered(constant.repeat(2, 1), torch.tensor([0, 1, 0, 1]), 2))
    assert classifier.predict(constant + 0.3).tolist() == [0, 1]


def test_a_class_never_seen_is_never_predicted() -> None:
    features, labels = data(60)
    classifier = LinearDiscriminant.fitted(gathered(features - 100, labels, classes=5))
    # At the origin, where the missing classes' means of zeros would be nearest.
    assert int(classifier.predict(torch.zeros(1, 6)).max()) < 3


def test_accuracy_class_by_class() -> None:
    wanted, predicted = torch.tensor([0, 0, 0, 0, 2, 2]), torch.tensor([0, 0, 0, 1, 1, 2])
    accuracy = class_accuracy(predicted, wanted, 4)
    assert accuracy.dtype == torch.float64
    torch.testing.assert_close(
        accuracy, torch.tensor([0.75, torch.nan, 0.5, torch.nan], dtype=torch.float64), equal_nan=True
    )
    assert torch.equal(class_accuracy(wanted, wanted, 3).isnan(), torch.tensor([False, True, False]))


def test_bad_input_is_refused_and_leaves_no_trace() -> None:
    features, labels = data(6)
    statistics = DiscriminantStatistics.empty(3, 6)
    broken = features.clone()
    broken[0, 0], broken[2, 1] = torch.nan, torch.inf
    with pytest.raises(ValueError, match="2 of 6 hold NaN or infinity"):
        statistics.update(broken, labels)
    with pytest.raises(ValueError, match="labels: 3 is not a class from 0 to 2"):
        statistics.update(features, labels + 1)
    with pytest.raises(ValueError, match=r"expected shapes \(N, 6\) and \(N,\)"):
        statistics.update(features, labels[:4])
    with pytest.raises(ValueError, match="belong together"):
        statistics.merge(DiscriminantStatistics.empty(4, 6))
    assert int(statistics.counts.sum()) == 0
    with pytest.raises(ValueError, match="no features"):
        LinearDiscriminant.fitted(statistics)
    statistics.update(features, labels)
    for shrinkage in (0.0, 1.1):
        with pytest.raises(ValueError, match="shrinkage"):
            LinearDiscriminant.fitted(statistics, shrinkage)
    classifier = LinearDiscriminant.fitted(statistics)
    with pytest.raises(ValueError, match="NaN"):
        classifier.predict(broken)
    with pytest.raises(ValueError, match=r"expected shape \(N, 6\)"):
        classifier.predict(features[:, :5])
    with pytest.raises(ValueError, match="not one"):
        class_accuracy(labels, labels[:3], 3)
    with pytest.raises(ValueError, match="wanted: 3 is not a class"):
        class_accuracy(labels, labels + 1, 3)
    with pytest.raises(ValueError, match="classes"):
        DiscriminantStatistics.empty(0, 6)


def test_equals_scikit_learns_discriminant() -> None:
    module = pytest.importorskip("sklearn.discriminant_analysis", reason="scikit-learn is an optional reference")
    features, labels = data(300)
    reference = module.LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(features.numpy(), labels.numpy())
    classifier = LinearDiscriminant.fitted(gathered(features, labels), shrinkage=0.1)
    asked, wanted = data(3000, seed=1)
    predicted = classifier.predict(asked)
    np.testing.assert_array_equal(predicted.numpy(), reference.predict(asked.numpy()))
    assert 0.5 < float((predicted == wanted).double().mean()) < 1
    # Ours leaves out a term that all classes share: compare differences.
    ours = (asked - classifier.centre) @ classifier.weight.T + classifier.bias
    theirs = torch.from_numpy(reference.decision_function(asked.numpy()))
    torch.testing.assert_close(ours - ours[:, :1], theirs - theirs[:, :1], rtol=1e-8, atol=1e-7)

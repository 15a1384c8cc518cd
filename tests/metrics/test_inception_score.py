import math

import pytest
import torch
from torch import Tensor

from metrics.inception_score import ScoreStatistics, inception_score


def random_logits(count: int, classes: int, seed: int = 0) -> Tensor:
    return 4 * torch.randn(count, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gathered(logits: Tensor, splits: int = 1) -> ScoreStatistics:
    result = ScoreStatistics.empty(len(logits), logits.shape[1], splits)
    result.update(0, logits)
    return result


@pytest.mark.parametrize("splits", [1, 4])
def test_sure_and_balanced_predictions_score_the_number_of_classes(splits: int) -> None:
    logits = 1e4 * torch.eye(10, dtype=torch.float64).repeat(4, 1)
    mean, deviation = inception_score(gathered(logits, splits))
    assert mean == pytest.approx(10, rel=1e-12)
    assert deviation == pytest.approx(0, abs=1e-12)


def test_constant_predictions_score_one() -> None:
    for row in (torch.zeros(10), torch.arange(10.0), 1e4 * torch.eye(10)[3]):
        assert inception_score(gathered(row.repeat(20, 1), 2))[0] == pytest.approx(1, rel=1e-12)


def test_by_hand_for_two_samples_of_two_classes() -> None:
    """p = (3/4, 1/4) and (1/4, 3/4), so p(y) = (1/2, 1/2) and each divergence is log 2 - H(1/4)."""
    logits = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)]], dtype=torch.float64)
    divergence = math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    assert inception_score(gathered(logits))[0] == pytest.approx(math.exp(divergence), rel=1e-13)


def test_deviation_is_over_splits() -> None:
    """The first half sure and balanced over two classes, the second constant: scores 2 and 1."""
    logits = torch.tensor([[1e4, 0.0], [0.0, 1e4], [0.0, 0.0], [0.0, 0.0]])
    assert inception_score(gathered(logits, 2)) == (pytest.approx(1.5), pytest.approx(0.5))


@pytest.mark.parametrize("sizes", [[103], [1] * 103, [1, 0, 101, 1], [37, 37, 29]])
def test_batches_ranks_and_their_order_change_nothing(sizes: list[int]) -> None:
    logits = random_logits(103, 7)
    whole = inception_score(gathered(logits, 10))
    ranks = [ScoreStatistics.empty(103, 7) for _ in range(2)]
    start, batches = 0, []
    for chunk in logits.split(sizes):
        batches.append((start, chunk))
        start += len(chunk)
    for number, (start, chunk) in enumerate(reversed(batches)):
        ranks[number % 2].update(start, chunk)
    ranks[0].merge(ranks[1])
    mean, deviation = inception_score(ranks[0])
    assert mean == pytest.approx(whole[0], rel=1e-13)
    assert deviation == pytest.approx(whole[1], rel=1e-11)


def tensors(statistics: ScoreStatistics) -> dict[str, Tensor]:
    return {name: value for name, value in vars(statistics).items() if isinstance(value, Tensor)}


def test_tensors_are_not_changed_later() -> None:
    result = ScoreStatistics.empty(40, 3, 2)
    result.update(0, random_logits(20, 3))
    held = tensors(result)
    copy = {name: value.clone() for name, value in held.items()}
    result.update(20, random_logits(20, 3))
    assert len(held) == 4
    assert all(torch.equal(held[name], copy[name]) for name in copy)


def test_the_memory_does_not_grow_with_samples() -> None:
    sizes = {
        sum(value.numel() for value in tensors(gathered(random_logits(count, 5), 10)).values()) for count in (10, 999)
    }
    assert len(sizes) == 1


def test_missing_and_repeated_samples_give_no_figure() -> None:
    logits = random_logits(40, 3)
    result = ScoreStatistics.empty(40, 3, 2)
    result.update(0, logits[:30])
    with pytest.raises(ValueError, match="10 of 40 samples were not seen"):
        inception_score(result)
    result.update(20, logits[20:30])  # 20 to 29 twice, 30 to 39 never
    with pytest.raises(ValueError, match="seen more than once"):
        inception_score(result)
    result.update(30, logits[30:])
    with pytest.raises(ValueError, match="seen more than once"):
        inception_score(result)


def test_bad_input_is_refused_and_leaves_no_trace() -> None:
    result = ScoreStatistics.empty(40, 3, 2)
    logits = random_logits(4, 3)
    logits[1, 2], logits[3, 0] = torch.nan, torch.inf
    with pytest.raises(ValueError, match="2 of 4 hold NaN or infinity"):
        result.update(0, logits)
    with pytest.raises(ValueError, match=r"expected shape \(N, 3\), got \(4, 2\)"):
        result.update(0, logits[:, :2])
    for start in (-1, 37):
        with pytest.raises(ValueError, match="not all among the 40"):
            result.update(start, random_logits(4, 3))
    with pytest.raises(ValueError, match=r"\(40, 2, 3\) and \(40, 4, 3\)"):
        result.merge(ScoreStatistics.empty(40, 3, 4))
    assert int(result.seen.sum()) == 0
    with pytest.raises(ValueError, match="3 samples do not fill 10 splits"):
        ScoreStatistics.empty(3, 5)
    with pytest.raises(ValueError, match="classes"):
        ScoreStatistics.empty(30, 0)


@pytest.mark.parametrize("count", [1000, 1003])
def test_equals_torch_fidelity(count: int) -> None:
    metric_isc = pytest.importorskip("torch_fidelity.metric_isc", reason="torch-fidelity is an optional reference")
    logits = random_logits(count, 200).float()
    theirs = metric_isc.isc_features_to_metric(logits, splits=10, shuffle=False)
    mean, deviation = inception_score(gathered(logits, 10))
    assert mean == pytest.approx(theirs["inception_score_mean"], rel=1e-10)
    assert deviation == pytest.approx(theirs["inception_score_std"], rel=1e-9)

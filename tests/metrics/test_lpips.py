"""LPIPS diversity is torchmetrics' distance over the right pairs; AlexNet's weights are random here."""

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor

from metrics.lpips import PairDistances, lpips_diversity


@pytest.fixture
def random_alexnet(monkeypatch: pytest.MonkeyPatch) -> None:
    make: Callable[..., torch.nn.Module] = torchvision.models.alexnet

    def without_weights(weights: object = None) -> torch.nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return make(weights=None)

    monkeypatch.setattr(torchvision.models, "alexnet", without_weights)


def pictures(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.mark.usefixtures("random_alexnet")
def test_it_is_torchmetrics_distance_of_neighbouring_samples() -> None:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    x = pictures(9)
    ours = PairDistances(torch.device("cpu"))(x)
    reference = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
    distances = torch.stack([reference(x[i : i + 1] / 255, x[i + 1 : i + 2] / 255) for i in (0, 2, 4, 6)]).double()
    assert len(ours) == 4  # the ninth has no partner
    mean, error = lpips_diversity(ours)
    assert mean == pytest.approx(float(distances.mean()), rel=1e-4)
    assert error == pytest.approx(float(distances.std()) / 2, rel=1e-3)


@pytest.mark.usefixtures("random_alexnet")
def test_a_pair_may_span_two_batches_and_grey_is_as_good() -> None:
    x = pictures(8)[:, :1]
    whole, distances = PairDistances(torch.device("cpu"))(x), PairDistances(torch.device("cpu"))
    parts = torch.cat([distances(part) for part in (x[:1], x[1:4], x[4:5], x[5:])])
    # Convolutions of other batch sizes round otherwise, in every layer.
    assert parts.tolist() == pytest.approx(whole.tolist(), rel=1e-4)
    assert len(parts) == 4


def test_too_few_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="1 pairs of samples; take at least 4"):
        lpips_diversity(torch.tensor([0.3]))

"""LPIPS's distance is torchmetrics', and can be followed downhill; VGG16's weights are random here."""

from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import Tensor
from torchvision.models import vgg

from features.lpips import LPIPSDistance, lpips_network


@pytest.fixture
def random_vgg(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_weights(weights: object = None) -> SimpleNamespace:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return SimpleNamespace(features=vgg.make_layers(vgg.cfgs["D"]))

    monkeypatch.setattr(torchvision.models, "vgg16", without_weights)


def pictures(seed: int) -> Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.usefixtures("random_vgg")
def test_it_is_torchmetrics_distance() -> None:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    a, b = pictures(1), pictures(2)
    reference = LearnedPerceptualImagePatchSimilarity(net_type="vgg")
    expected = [float(reference(a[i : i + 1], b[i : i + 1])) for i in range(3)]
    assert LPIPSDistance()(a, b).tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.usefixtures("random_vgg")
def test_it_has_a_gradient_and_takes_grey_pictures() -> None:
    a, b = pictures(1)[:, :1].requires_grad_(True), pictures(2)[:, :1]
    distances = LPIPSDistance()(a, b)
    assert distances.dtype == torch.float64
    (gradient,) = torch.autograd.grad(distances.sum(), a)
    assert gradient.abs().amax((1, 2, 3)).min() > 0


def test_weights_that_are_not_to_be_had_are_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*arguments: object, **settings: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    with pytest.raises(FileNotFoundError, match=r"put alexnet-owt-.*\.pth at .*, or do without") as caught:
        lpips_network("alex", "do without")
    assert "\n" not in str(caught.value)

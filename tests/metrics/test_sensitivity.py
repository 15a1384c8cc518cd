"""Figures notice what is wrong with pictures: real ones against real ones, as they are and spoilt."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from datamodules.fashion_mnist import FashionMNIST
from features.efficientnet import EfficientNetFeatures
from media.pictures import to_uint8
from metrics.evaluation import chosen, figures, needs_of
from metrics.picture_set import PictureSet
from metrics.real_statistics import RealStatistics
from metrics.sample_statistics import SampleStatistics

COUNT = 350


@pytest.fixture(scope="module")
def extractor() -> EfficientNetFeatures:
    return EfficientNetFeatures(resolution=32)


@pytest.fixture(scope="module")
def others() -> tuple[Tensor, Tensor]:
    """Real pictures, uint8 (2000, 1, 32, 32), and their labels."""
    x, y = FashionMNIST(excerpt=True).examples("train", range(1000, 3000))
    return to_uint8(x), y


@pytest.fixture(scope="module")
def reference(extractor: EfficientNetFeatures, tmp_path_factory: pytest.TempPathFactory) -> RealStatistics:
    data = FashionMNIST(excerpt=True)

    def read(indices: object) -> tuple[Tensor, Tensor]:
        x, y = data.examples("train", list(indices))  # type: ignore[call-overload]
        return to_uint8(x), y

    pictures = PictureSet("excerpt", "excerpt", 1000, read, num_classes=10)
    return RealStatistics(pictures, extractor, tmp_path_factory.mktemp("cache"))


def measured(reference: RealStatistics, extractor: EfficientNetFeatures, folder: Path, pictures: Tensor) -> list[float]:
    """FD-EffNet, precision, recall of the first pictures."""
    metrics = chosen(["frechet", "precision_recall"])
    seen = SampleStatistics(needs_of(metrics), extractor, COUNT, range(COUNT), folder)
    for part in pictures[:COUNT].split(100):
        seen.update(part, None)
    found = figures(metrics, reference, seen)
    return [found[name].value for name in ("fd_effnet", "precision", "recall")]


def test_distances_rise_and_recall_and_precision_fall_where_they_should(
    reference: RealStatistics, extractor: EfficientNetFeatures, others: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    x, y = others

    def noisy(sigma: float) -> Tensor:
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) * sigma
        return (x.float() + noise).round().clamp(0, 255).to(torch.uint8)

    real = measured(reference, extractor, tmp_path, x)
    blurs = [measured(reference, extractor, tmp_path, transforms.gaussian_blur(x, [9, 9], [s, s])) for s in (0.7, 2.0)]
    noises = [measured(reference, extractor, tmp_path, noisy(s)) for s in (15, 60)]
    dropped = [measured(reference, extractor, tmp_path, x[y < classes]) for classes in (6, 4)]
    for spoilt in (blurs, noises, dropped):
        assert real[0] < spoilt[0][0] < spoilt[1][0]
    assert real[1] > noises[0][1] > noises[1][1]
    assert real[2] > dropped[0][2] > dropped[1][2]
    assert dropped[1][1] > 0.9 * real[1]  # what is left is as real as before


def test_classes_are_told_apart_and_their_share_is_right(
    reference: RealStatistics, extractor: EfficientNetFeatures, others: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    x, y = others
    seen = SampleStatistics({"rows", "labels"}, extractor, 1000, range(1000), tmp_path)
    wrong = y[:1000].clone()
    wrong[wrong == 3] = 7  # dresses that were asked for as sneakers
    seen.update(x[:1000], wrong)
    figure = figures(chosen(["class_accuracy"]), reference, seen)["class_accuracy"]
    by_class = figure.settings["by_class"]
    right = figure.settings["classifier_accuracy"]
    assert right > 0.5  # from 800 pictures of 32 pixels, in 1,280 dimensions
    assert by_class[9] > right  # ankle boots are easy, and are what they are
    assert by_class[7] < 0.6 * by_class[9]  # half of those asked for as sneakers are dresses

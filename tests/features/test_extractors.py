from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from features.efficientnet import EfficientNetFeatures
from features.extractors import Extractor, make_extractor
from features.inception import InceptionFeatures
from tests.features.test_torchscript import Moments, saved

Publish = Callable[[dict[str, Tensor], Path], None]


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(Moments(), tmp_path_factory.mktemp("torchscript") / "moments.pt")


@pytest.fixture(params=["effnet", "inception", "torchscript"])
def extractor(
    request: pytest.FixtureRequest,
    script: Path,
    inception_state: OrderedDict[str, Tensor],
    tmp_path: Path,
    publish: Publish,
) -> Extractor:
    """Each kind in turn, as `make_extractor` makes it; the weights of Inception are random."""
    if request.param == "inception":
        publish(inception_state, tmp_path / "weights.pth")
        return make_extractor("inception", weights=str(tmp_path / "weights.pth"))
    return make_extractor(str(script) if request.param == "torchscript" else request.param)


def test_every_extractor_keeps_the_contract(extractor: Extractor) -> None:
    pictures = torch.randint(0, 256, (3, 3, 40, 36), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    features = extractor(pictures)
    assert features.shape == (3, extractor.dimension)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert extractor(pictures[:0]).shape == (0, extractor.dimension)
    alone = torch.cat([extractor(pictures[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(alone, features[:2], rtol=1e-4, atol=1e-3)

    # Nothing around it reaches in, and it reaches nothing around it.
    holder = nn.Sequential(nn.Linear(2, 2), extractor)  # type: ignore[arg-type]
    assert set(holder.state_dict()) == {"0.weight", "0.bias"}
    assert len(list(holder.parameters())) == 2
    holder.train().to(torch.bfloat16)
    setting = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            again = extractor(pictures)
            logits = extractor.logits(features) if extractor.num_logits else torch.zeros(3, 0)
    finally:
        torch.set_float32_matmul_precision(setting)
    torch.testing.assert_close(again, features, rtol=1e-4, atol=1e-3)
    assert logits.shape == (3, extractor.num_logits)
    assert logits.dtype == torch.float32

    assert set(extractor.protocol()) == {"extractor", "weights_sha256", "resolution", "resize", "precision"}
    assert extractor.protocol()["extractor"] == extractor.name
    assert len(str(extractor.protocol()["weights_sha256"])) == 64
    assert extractor.to(torch.device("cpu")) is extractor


@pytest.mark.parametrize(
    "pictures",
    [torch.zeros(2, 2, 8, 8, dtype=torch.uint8), torch.zeros(2, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8)],
    ids=["channels", "dtype", "dimensions"],
)
def test_other_pictures_are_refused(script: Path, pictures: Tensor) -> None:
    with pytest.raises(ValueError, match=r"pictures: expected uint8 of shape \(N, 1 or 3, H, W\)"):
        make_extractor(str(script))(pictures)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_features_are_those_of_the_cpu(extractor: Extractor) -> None:
    pictures = torch.randint(0, 256, (3, 3, 40, 36), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    expected = extractor(pictures)
    features = extractor.to(torch.device("cuda"))(pictures)
    assert features.device.type == "cuda"
    torch.testing.assert_close(features.cpu(), expected, rtol=1e-3, atol=1e-2)
    if extractor.num_logits:
        torch.testing.assert_close(
            extractor.logits(expected),
            extractor.to(torch.device("cpu")).logits(expected),
            rtol=1e-4,
            atol=1e-4,
            check_device=False,
        )


def test_settings_reach_the_extractor(
    script: Path, inception_state: OrderedDict[str, Tensor], tmp_path: Path, publish: Publish
) -> None:
    effnet = make_extractor("effnet", resolution=96, resize="tf1-bilinear", precision="bfloat16")
    assert isinstance(effnet, EfficientNetFeatures)
    assert {**effnet.protocol(), "weights_sha256": ""} == {
        "extractor": "EffNet",
        "weights_sha256": "",
        "resolution": 96,
        "resize": "tf1-bilinear",
        "precision": "bfloat16",
    }
    assert make_extractor("effnet").protocol() == EfficientNetFeatures().protocol()

    publish(inception_state, tmp_path / "weights.pth")
    inception = make_extractor(
        "inception", resize="tf1-bilinear", resolution=299, weights=str(tmp_path / "weights.pth")
    )
    assert isinstance(inception, InceptionFeatures)
    assert inception.protocol()["resize"] == "tf1-bilinear"

    other = make_extractor(str(script), resolution=24, resize="tf1-bilinear")
    assert other.name == "moments"
    assert (other.protocol()["resolution"], other.protocol()["resize"]) == (24, "tf1-bilinear")


@pytest.mark.parametrize(
    ("spec", "settings", "message"),
    [
        (
            "incption",
            {},
            r"unknown extractor 'incption': expected effnet, inception, or the path of a TorchScript file",
        ),
        ("Inception", {}, "unknown extractor 'Inception'"),
        ("inception", {"resolution": 64}, "resolution=64: inception's is 299; leave it out"),
        ("inception", {"precision": "float16"}, "precision='float16': expected one of float32, bfloat16"),
        ("inception", {"resize": "nearest"}, "resize='nearest': expected one of bicubic, tf1-bilinear"),
        ("effnet", {"resolution": 0}, "resolution=0: EfficientNet"),
        ("effnet", {"weights": "file.pth"}, "weights='file.pth': only inception takes its weights from a file"),
        ("some/inception.pt", {}, "would be taken for those of the extractor inception; rename it"),
        ("some/other.pt", {"precision": "bfloat16"}, "precision='bfloat16': some/other.pt runs in the precision"),
        ("some/other.pt", {"resize": "tf1-bilinear"}, "without a resolution"),
    ],
)
def test_wrong_settings_say_so_in_one_line(spec: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make_extractor(spec, **settings)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_said_to_be_missing() -> None:
    with pytest.raises(FileNotFoundError, match=r"some/other\.pt: no such file"):
        make_extractor("some/other.pt")

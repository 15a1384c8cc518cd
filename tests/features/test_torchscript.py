import hashlib
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from features.resize import resized
from features.torchscript import TorchScriptFeatures


class Moments(nn.Module):
    """Six numbers a picture, which tell what came: three means, channels, height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(1.0, 4.0))

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.uint8
        means = x.float().mean((2, 3)) * self.weight
        sizes = torch.tensor([x.shape[1], x.shape[2], x.shape[3]], dtype=torch.float32)
        return torch.cat([means, sizes.expand(x.shape[0], 3)], 1)


class Maps(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.double().mean((2, 3), keepdim=True)


class Classifier(nn.Module):
    """Logits, or on request features, as StyleGAN2-ADA's networks."""

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        features = x.float().mean((2, 3))
        return features if return_features else features.repeat(1, 7)


class OneForAll(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float().mean((0, 2, 3))[None]


class Bytes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class Two(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.float(), x.float()


class Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float() @ torch.zeros(5, 5)


class Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float().flatten(1)


def saved(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch would rather have torch.export
        torch.jit.save(torch.jit.script(module.eval()), path)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(Moments(), tmp_path_factory.mktemp("torchscript") / "moments-v2.pt")


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return torch.randint(0, 256, (3, 3, 20, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_pictures_come_as_bytes_at_their_own_size(file: Path, pictures: Tensor) -> None:
    extractor = TorchScriptFeatures(file)
    assert extractor.dimension == 6
    features = extractor(pictures)
    means = pictures.float().mean((2, 3)) * torch.arange(1.0, 4.0)
    torch.testing.assert_close(features, torch.cat([means, torch.tensor([[3.0, 20, 24]]).expand(3, 3)], 1))
    assert not features.requires_grad
    assert torch.equal(extractor(pictures[:, :1]), extractor(pictures[:, :1].expand(-1, 3, -1, -1)))


def test_protocol_has_the_files_name_and_hash(file: Path) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    own = {"extractor": "moments-v2", "weights_sha256": digest, "resolution": "own", "resize": "none"}
    assert TorchScriptFeatures(file).protocol() == {**own, "precision": "as saved"}
    scaled = TorchScriptFeatures(file, resolution=16, resize="tf1-bilinear").protocol()
    assert (scaled["resolution"], scaled["resize"]) == (16, "tf1-bilinear")


def test_with_a_resolution_pictures_are_resized_and_rounded_to_bytes(tmp_path: Path, pictures: Tensor) -> None:
    path = saved(Flat(), tmp_path / "flat.pt")
    extractor = TorchScriptFeatures(path, resolution=10)
    assert extractor.dimension == 300
    assert torch.equal(extractor(pictures), resized(pictures, 10, "bicubic").round().flatten(1))
    legacy = TorchScriptFeatures(path, resolution=10, resize="tf1-bilinear")
    assert torch.equal(legacy(pictures), resized(pictures, 10, "tf1-bilinear").round().flatten(1))


def test_maps_of_one_pixel_are_features_and_doubles_become_floats(tmp_path: Path, pictures: Tensor) -> None:
    extractor = TorchScriptFeatures(saved(Maps(), tmp_path / "maps.ts"))
    features = extractor(pictures)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, pictures.float().mean((2, 3)))


def test_a_network_that_can_return_features_is_asked_to(tmp_path: Path, pictures: Tensor) -> None:
    extractor = TorchScriptFeatures(saved(Classifier(), tmp_path / "classifier.pt"))
    assert extractor.dimension == 3
    assert extractor(pictures).shape == (3, 3)
    assert extractor.num_logits == 0
    with pytest.raises(ValueError, match="classifier has no logits"):
        extractor.logits(extractor(pictures))


def test_adds_nothing_to_the_module_that_holds_it_and_keeps_its_dtype(file: Path, pictures: Tensor) -> None:
    extractor = TorchScriptFeatures(file)
    before = extractor(pictures)
    holder = nn.Sequential(nn.Linear(2, 2), extractor)
    assert set(holder.state_dict()) == {"0.weight", "0.bias"}
    assert len(list(holder.parameters())) == 2
    holder.train().to(torch.bfloat16)
    assert torch.equal(extractor(pictures), before)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (OneForAll(), r"expected floats \(N, D\) or .* of pictures \(2, 3, 299, 299\), got torch.float32 of \(1, 3\)"),
        (Bytes(), r"expected floats .* got torch\.uint8 of \(2, 268203\)"),
        (Two(), r"expected floats .* got tuple"),
        (Fails(), r"failed on pictures, uint8 \(2, 3, 299, 299\) \(RuntimeError: .*cannot be multiplied"),
    ],
)
def test_networks_that_give_no_features_are_refused(module: nn.Module, message: str, tmp_path: Path) -> None:
    path = saved(module, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=message) as caught:
        TorchScriptFeatures(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_features_that_change_in_number_are_refused(tmp_path: Path, pictures: Tensor) -> None:
    extractor = TorchScriptFeatures(saved(Flat(), tmp_path / "flat.pt"))
    with pytest.raises(ValueError, match=r"flat\.pt: 1440 features now, 268203 before"):
        extractor(pictures)


def test_files_that_are_not_torchscript_are_refused_in_one_line(tmp_path: Path) -> None:
    text, weights = tmp_path / "text.pt", tmp_path / "weights.pt"
    text.write_text("hello")
    torch.save({"weight": torch.zeros(3)}, weights)
    for path in (text, weights):
        with pytest.raises(ValueError, match=rf"{path.name}: not a TorchScript file \(") as caught:
            TorchScriptFeatures(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"absent\.pt: no such file"):
        TorchScriptFeatures(tmp_path / "absent.pt")


def test_settings_are_checked(file: Path) -> None:
    with pytest.raises(ValueError, match="resize='tf1-bilinear' without a resolution"):
        TorchScriptFeatures(file, resize="tf1-bilinear")
    with pytest.raises(ValueError, match="resolution=0"):
        TorchScriptFeatures(file, resolution=0)
    with pytest.raises(ValueError, match="resize='cubic': expected one of"):
        TorchScriptFeatures(file, resolution=8, resize="cubic")  # type: ignore[arg-type]

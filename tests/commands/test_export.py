"""`export`: what is in each file gives the model's pictures, by its own reader; nothing else is written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from commands import export
from main import main
from models import load
from models.biggan import BigGAN
from models.dcgan import DCGAN
from models.parts.layers import SpectralConv2d, SpectralEmbedding, SpectralLinear, without_spectral_norm
from models.progan import ProGAN
from models.r3gan import R3GAN
from models.stylegan2 import StyleGAN2
from models.training.gan import GAN
from settings.sampling import StyleGAN2Settings

STYLEGAN2 = {"channel_base": 64, "channel_max": 8, "latent_dim": 6, "w_dim": 5, "mapping_layers": 2}

MODELS: dict[str, Callable[[], GAN]] = {
    "dcgan": lambda: DCGAN((1, 16, 16), 3, width=2, latent_dim=5, conditional=True),
    "progan": lambda: ProGAN((1, 16, 16), channel_base=32, channel_max=8, latent_dim=5, stable_kimg=0.1, fade_kimg=0.1),
    "biggan": lambda: BigGAN(
        (3, 32, 32), 3, width=2, latent_dim=8, shared_dim=3, hierarchical=True, attention=[16], initialization="normal"
    ),
    "stylegan2": lambda: StyleGAN2((3, 16, 16), 3, conditional=True, **STYLEGAN2),
    "r3gan": lambda: R3GAN((3, 16, 16), 3, [8, 8, 4], [2, 4, 1], latent_dim=6, conditional=True),
}


def trained(family: str) -> GAN:
    """With an average of its own, and statistics, noise, attention and averages that show."""
    model = MODELS[family]()
    model.generator.load_state_dict(MODELS[family]().generator.state_dict())
    model.average.update(0.5)
    for module in model.average.module.modules():
        for name, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if name in ("running_mean", "w_average", "bias"):
                value.data.normal_(0, 0.1)
            elif name == "weight" and not value.any():
                value.data.normal_(0, 0.3)  # R3GAN's residual branches begin as 0
            elif name == "basis":
                value.data.mul_(4)  # so that its pictures go beyond -1 and 1, and are cut off
            elif isinstance(module, nn.ConvTranspose2d):
                value.data.mul_(20)  # DCGAN's begin so small that its pictures are grey
            elif name == "running_var":
                value.data.uniform_(0.5, 2)
            elif name in ("noise_strength", "gamma"):
                value.data.fill_(0.5)
    return model


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of each family, <family>.ckpt; ProGAN's in the midst of a fade, below its final resolution."""
    folder = tmp_path_factory.mktemp("checkpoints")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name in MODELS:
            model = trained(name)
            model.samples_seen = 150
            checkpoint: dict[str, Any] = {"state_dict": model.state_dict()}
            model.on_save_checkpoint(checkpoint)
            torch.save(checkpoint, folder / f"{name}.ckpt")
    return folder


def exported(checkpoints: Path, family: str, out: Path, *arguments: object) -> int:
    return main(["export", "--ckpt_path", str(checkpoints / f"{family}.ckpt"), "--out", str(out), *map(str, arguments)])


def expected(checkpoints: Path, family: str, **settings: Any) -> tuple[tuple[Tensor, ...], Tensor]:  # noqa: ANN401
    """Five inputs that the verb did not compare, and the model's pictures of them."""
    model = load(checkpoints / f"{family}.ckpt")
    assert isinstance(model, GAN)
    z = model.draw_latents(range(5), seed=9)
    inputs = (z, torch.tensor([2, 0, 1, 1, 2])) if model.label_classes else (z,)
    settings = {"noise": "const", **settings} if family == "stylegan2" else settings
    return inputs, model.decode(*inputs, settings=model.settings_class(**settings))


def apart(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    assert b.std() > 0.05  # so that a difference would show
    return float((a - b).abs().max())


@pytest.mark.parametrize("family", MODELS)
def test_onnx(checkpoints: Path, tmp_path: Path, family: str, capsys: pytest.CaptureFixture[str]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out = tmp_path / "new" / "generator.onnx"
    assert exported(checkpoints, family, out) == 0, capsys.readouterr().err
    assert "largest difference" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    inputs, pictures = expected(checkpoints, family)
    feed = {node.name: value.numpy() for node, value in zip(session.get_inputs(), inputs, strict=True)}
    assert list(feed) == ["z", "labels"][: len(inputs)]
    assert apart(torch.from_numpy(session.run(None, feed)[0]), pictures) < 1e-4
    facts = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    assert facts["samples_seen"] == 150
    assert facts["checkpoint"] == f"{family}.ckpt"
    assert facts["classes"] == (3 if len(inputs) == 2 else 0)
    assert facts["latent_dim"] == inputs[0].shape[1]
    assert facts["data_range"] == [-1, 1]
    assert facts["settings"]["weights"] == "ema"


@pytest.mark.parametrize("family", MODELS)
def test_torchscript(checkpoints: Path, tmp_path: Path, family: str) -> None:
    assert exported(checkpoints, family, tmp_path / "generator.pt") == 0
    facts = {"latent_dim": ""}
    module = torch.jit.load(tmp_path / "generator.pt", _extra_files=facts)
    inputs, pictures = expected(checkpoints, family)
    assert apart(module(*inputs), pictures) < 1e-4
    assert json.loads(facts["latent_dim"]) == inputs[0].shape[1]


@pytest.mark.parametrize("family", MODELS)
def test_torch_export(checkpoints: Path, tmp_path: Path, family: str) -> None:
    assert exported(checkpoints, family, tmp_path / "generator.pt2") == 0
    facts = {"data_shape": ""}
    program = torch.export.load(tmp_path / "generator.pt2", extra_files=facts)
    inputs, pictures = expected(checkpoints, family)
    assert apart(program.module()(*inputs), pictures) < 1e-4
    assert json.loads(facts["data_shape"]) == list(pictures.shape[1:])


@pytest.mark.parametrize("family", MODELS)
def test_safetensors(checkpoints: Path, tmp_path: Path, family: str) -> None:
    safetensors = pytest.importorskip("safetensors")
    assert exported(checkpoints, family, tmp_path / "generator.safetensors") == 0
    model = load(checkpoints / f"{family}.ckpt")
    assert isinstance(model, GAN)
    with safetensors.safe_open(tmp_path / "generator.safetensors", framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        assert json.loads(file.metadata()["model"]) == type(model).__name__
    average = model.average.module
    if family == "biggan":
        average = without_spectral_norm(average)
    assert weights.keys() == {f"network.{name}" for name in average.state_dict()}
    assert all(torch.equal(weights[f"network.{name}"], value) for name, value in average.state_dict().items())


def test_truncation_and_noise_are_fixed_in_the_file(checkpoints: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.pt2"
    options = ("--truncation_psi", 0.4, "--truncation_cutoff", 2, "--noise", "none")
    assert exported(checkpoints, "stylegan2", out, *options) == 0
    chosen = {"truncation_psi": 0.4, "truncation_cutoff": 2, "noise": "none"}
    inputs, pictures = expected(checkpoints, "stylegan2", **chosen)
    facts = {"settings": ""}
    drawn = torch.export.load(out, extra_files=facts).module()(*inputs)
    assert apart(drawn, pictures) < 1e-4
    assert apart(drawn, expected(checkpoints, "stylegan2")[1]) > 0.05
    assert json.loads(facts["settings"]).items() >= chosen.items()


def test_a_file_that_differs_is_not_written(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def another(network: nn.Module, inputs: export.Inputs, facts: dict[str, str]) -> export.Written:
        content, reopened = export.exported_program(network, inputs, facts)
        return content, lambda inputs: reopened(inputs) + 2e-3

    monkeypatch.setitem(export.WRITERS, ".pt2", another)
    assert exported(checkpoints, "dcgan", tmp_path / "x.pt2") == 2
    assert "its pictures would differ from the model's by 0.002" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("family", "out", "arguments", "said"),
    [
        ("dcgan", "x.h5", [], "name a file ending in .safetensors, .pt, .pt2, .onnx"),
        ("dcgan", "x.pt2", ["--truncation_psi", "0.5"], "DCGAN has no truncation_psi"),
        ("dcgan", "x.pt2", ["--truncation", "0.5"], "unrecognized arguments: --truncation 0.5"),
        ("stylegan2", "x.safetensors", ["--truncation_psi", "0.5"], "--truncation_psi does not apply to"),
        ("stylegan2", "x.pt2", ["--truncation_cutoff", "-1"], "truncation_cutoff must be at least 0"),
        ("missing", "x.pt2", [], "no checkpoint at"),
    ],
)
def test_bad_input_is_one_line(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    family: str, out: str, arguments: list[str], said: str,
) -> None:  # fmt: skip
    pytest.importorskip("safetensors")
    assert exported(checkpoints, family, tmp_path / out, *arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_is_missing_is_named() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"needs no_such_package: pip install -e '\.\[export\]'"):
        export.require_installed(["json", "no_such_package"])


def test_random_noise_and_standing_statistics_cannot_be_deployed() -> None:
    with pytest.raises(ValueError, match="noise const or none"):
        MODELS["stylegan2"]().deployed(StyleGAN2Settings(noise="random"))
    model = MODELS["biggan"]()
    with pytest.raises(ValueError, match="standing_statistics must be 0"):
        model.deployed(model.settings_class(standing_statistics=2))  # type: ignore[call-arg]


def test_layers_without_their_spectral_norm_give_the_same() -> None:
    """And have largest singular values near 1, which the others reach by dividing."""
    torch.manual_seed(0)
    network = nn.ModuleDict(
        {"conv": SpectralConv2d(3, 4, 3), "linear": SpectralLinear(5, 6, bias=False), "table": SpectralEmbedding(7, 4)}
    )
    for layer in network.values():
        for _ in range(50):  # power iterations
            layer(torch.zeros(1, 3, 4, 4) if isinstance(layer, SpectralConv2d) else torch.zeros(1, 5)
                  if isinstance(layer, SpectralLinear) else torch.zeros(1, dtype=torch.int64))  # fmt: skip
    network.eval()
    plain = without_spectral_norm(network)
    assert not any(isinstance(layer, (SpectralConv2d, SpectralLinear, SpectralEmbedding)) for layer in plain.modules())
    for name, x in (("conv", torch.randn(2, 3, 4, 4)), ("linear", torch.randn(2, 5)), ("table", torch.arange(7))):
        torch.testing.assert_close(plain[name](x), network[name](x))
        assert torch.linalg.matrix_norm(plain[name].weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-3)
        assert torch.linalg.matrix_norm(network[name].weight.flatten(1), 2).item() != pytest.approx(1, abs=1e-3)

"""`info`: configs and checkpoints described without data, weights or training."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from commands.options.checkpoints import usable_device
from commands.options.command_line import DEFAULTS
from main import main

CONFIGS = sorted(path for path in DEFAULTS.parent.glob("*.yaml") if path != DEFAULTS)
NEEDS_A_FILE = {
    "transformer_shakespeare": "data.path",
    "vqvae_prior_cifar10": "--model.codes_from",
    "vqvae_prior_fashion_mnist": "--model.codes_from",
}
"""What these are of is written in a file: an alphabet, or the codes of another model."""
PUBLISHED = {
    "stylegan2_ffhq1024": {"generator": 30_370_060, "discriminator": 29_012_513},
    "biggan_imagenet128": {"generator": 70_433_988, "discriminator": 87_982_370},
    "stylegan2_paper256": {"generator": 24_767_458, "discriminator": 24_001_089},
}


def info(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    assert main(["info", *map(str, arguments), "--json", "--device", "cpu"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_every_config_answers_where_there_are_no_data(
    path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("commands.info.predict", lambda *_: (None, "left out here"))
    if path.stem in NEEDS_A_FILE:
        monkeypatch.setattr("datamodules.text.Text._download", lambda *_: None)
        assert main(["info", str(path)]) == 2
        assert NEEDS_A_FILE[path.stem].removeprefix("--model.") in capsys.readouterr().err
        return
    found = info(capsys, path)
    assert sum(found["parameters"].values()) > 0
    assert found["data_shape"]
    assert found["parameters"] == PUBLISHED.get(path.stem, found["parameters"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["dcgan_ada_fashion_mnist", "transformer_fashion_mnist", "glow_moons"])
def test_memory_is_predicted(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = info(capsys, f"configs/{name}.yaml", "--trainer.precision", "32")
    assert found["peak_bytes"] > sum(size for kind, size in found["kept_bytes"].items() if kind != "activations")
    assert (found["precision"], found["s_per_kimg"]) == ("32-true", None)


def test_a_config_with_or_without_its_flag_and_flags_of_fit_over_it(capsys: pytest.CaptureFixture[str]) -> None:
    config = "configs/dcgan_fashion_mnist.yaml"
    plain = info(capsys, config)
    assert info(capsys, "--config", config) == plain
    changed = info(capsys, "--model.width", "8", config, "--data.resolution=64", "--data.batch_size", "16")
    assert (changed["data_shape"], changed["batch_size"]) == ([1, 64, 64], 16)
    assert changed["parameters"]["generator"] < plain["parameters"]["generator"]
    assert info(capsys, config, "--batch_size", "8")["batch_size"] == 8


def test_words_say_what_is_predicted_and_what_measured(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "info",
        "configs/glow_moons.yaml",
        "--device",
        "cpu",
        "--trainer.precision",
        "32-true",
        "--batch_size",
        "8",
    ]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "at the peak of a step (predicted" in shown
    assert "not measured; --measure times training steps" in shown
    assert main([*arguments, "--measure"]) == 0
    shown = capsys.readouterr().out
    assert "(resident set), measured" in shown or "not known on this system, measured" in shown
    assert "s/kimg" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give one of: a run config, a checkpoint, a run's folder"),
        (["nowhere.yaml"], "no checkpoint, run or config at nowhere.yaml"),
        (["runs", "--model.width", "3"], "no checkpoint, run or config at runs"),
        (["tests", "--model.width", "3"], "--model.width: tests is not a config"),
        (["configs/dcgan_fashion_mnist.yaml", "--model.widht", "3"], "Option 'widht' is not accepted"),
        (["configs/dcgan_fashion_mnist.yaml", "--device", "abacus"], "--device abacus: "),
        (["configs/dcgan_fashion_mnist.yaml", "--batch_size", "0"], "--batch_size must be at least 1"),
        (["configs/biggan_imagenet128.yaml", "--data.num_classes", "null"], "or state data.num_classes"),
    ],
)
def test_bad_input_is_said_in_a_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("cuda", "mps", "kind"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_is_cuda_then_mps_then_the_cpu(cuda: bool, mps: bool, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)  # which would fail on what is not there
    assert usable_device("auto").type == kind

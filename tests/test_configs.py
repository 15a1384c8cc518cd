"""Every shipped config, built by the real parser without running."""

import re
import socket
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import yaml
from PIL import Image

from commands.options.command_line import CALLBACKS, DEFAULTS, TrainingCLI, as_input_errors, quietly
from commands.options.configs import read_config
from commands.options.errors import InputError
from datamodules import fashion_mnist
from datamodules.base import DataModule
from models.training.base import GenerativeModel
from tests.models.toy_coder import ToyCoder, save_model

CONFIGS = DEFAULTS.parent
RUN_CONFIGS = sorted(path for path in CONFIGS.glob("*.yaml") if path != DEFAULTS)
FASHION_MNIST = [path for path in RUN_CONFIGS if "fashion_mnist" in path.name]
TRAINER_FRAGMENTS = sorted((CONFIGS / "trainer").glob("*.yaml"))
HERE = ("--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto", "--trainer.precision=32-true")

Build = Callable[..., TrainingCLI]


class Parsed(TrainingCLI):
    """What is parsed, and nothing built: a fragment may ask for devices that this machine lacks."""

    def instantiate_classes(self) -> None:
        """Nothing."""


def names(paths: list[Path]) -> list[str]:
    return [path.stem for path in paths]


def opening_comment(path: Path) -> list[str]:
    """The comment lines that a file begins with."""
    lines = path.read_text().splitlines()
    end = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return lines[:end]


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Builds a run config for this machine, without downloads; further arguments come last and win."""
    monkeypatch.chdir(tmp_path)  # nothing may depend on the working directory but data_dir, which is given
    # Of the largest networks, orthogonal weights alone take a minute; what they are is tested with small ones.
    monkeypatch.setattr(torch.nn.init, "orthogonal_", lambda weight: weight)

    def make(path: Path, *arguments: str, cli: type[TrainingCLI] = TrainingCLI) -> TrainingCLI:
        words = ["fit", "--config", str(path), *HERE]
        content = str(read_config(path))
        if "ImageFolder" in content:
            (tmp_path / "class").mkdir(exist_ok=True)
            for number in range(4):
                Image.new("RGB", (12, 12)).save(tmp_path / "class" / f"{number}.png")
            words.append(f"--data.data_dir={tmp_path}")
        if "'Text'" in content:
            (tmp_path / "text.txt").write_text("".join(map(chr, range(32, 127))) * 100)
            words.append(f"--data.path={tmp_path / 'text.txt'}")
        if "codes_from" in content:
            words.append(f"--model.codes_from={tmp_path / 'coder.ckpt'}")
            coder = ToyCoder((3, 32, 32) if "cifar" in path.stem else (1, 28, 28))
            save_model(coder, tmp_path / "coder.ckpt")
        with as_input_errors(), quietly():
            return cli([*words, *arguments])

    return make


@pytest.fixture
def more(tmp_path: Path) -> Callable[[dict[str, Any]], str]:
    """Writes a further config."""

    def write(settings: dict[str, Any]) -> str:
        path = tmp_path / "more.yaml"
        path.write_text(yaml.safe_dump(settings))
        return f"--config={path}"

    return write


# Run configs.


@pytest.mark.parametrize("path", RUN_CONFIGS, ids=names(RUN_CONFIGS))
def test_a_run_config_builds(path: Path, build: Build) -> None:
    cli = build(path)
    assert isinstance(cli.model, GenerativeModel)
    assert isinstance(cli.datamodule, DataModule)
    assert isinstance(cli.trainer, lightning.Trainer)
    assert tuple(cli.model.data_shape) == tuple(cli.datamodule.data_shape)
    assert cli.model.num_classes == cli.datamodule.num_classes
    assert cli.arguments.run.name == path.stem
    assert (cli.arguments.budget.kimg or cli.arguments.budget.hours or 0) > 0
    assert cli.arguments.trainer.max_epochs == -1, "defaults.yaml must stay underneath"


@pytest.mark.parametrize("path", RUN_CONFIGS, ids=names(RUN_CONFIGS))
def test_a_run_config_opens_with_its_command_source_and_figures(path: Path) -> None:
    first, *rest = opening_comment(path)
    assert re.fullmatch(rf"# python main\.py fit --config configs/{path.name}( .*)?", first)
    text = "\n".join(rest)
    assert re.search(r"^# Published: ", text, re.MULTILINE)
    assert re.search(r"[Ss]ource|Settings are those of", text)


@pytest.mark.parametrize("path", RUN_CONFIGS, ids=names(RUN_CONFIGS))
def test_published_and_measured_figures_stand_apart(path: Path) -> None:
    """A line of the opening comment speaks of one of them."""
    for line in opening_comment(path):
        assert not ("Published" in line and "Measured" in line), line


# Data.


def refused(*_args: object, **_settings: object) -> None:
    raise OSError("no network")


@pytest.mark.parametrize("path", FASHION_MNIST, ids=names(FASHION_MNIST))
def test_a_fashion_mnist_config_needs_no_download(path: Path, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN", Path("nowhere"))
    monkeypatch.setattr(socket, "socket", refused)
    data = build(path).datamodule
    data.prepare_data()
    data.setup("validate")
    assert data.size("train") == (data.train_limit or 10_000)
    assert "the bundled 10,000" in data.note


# Trainer fragments.


def test_the_trainer_fragments_are_these() -> None:
    assert names(TRAINER_FRAGMENTS) == ["cpu", "ddp", "gpu", "tpu"]


@pytest.mark.parametrize("path", TRAINER_FRAGMENTS, ids=names(TRAINER_FRAGMENTS))
@pytest.mark.parametrize("form", ["flag", "included"])
def test_a_trainer_fragment_lies_over_the_defaults(
    path: Path, form: str, build: Build, more: Callable[[dict[str, Any]], str]
) -> None:
    argument = f"--trainer={path}" if form == "flag" else more({"trainer": str(path)})
    trainer = build(CONFIGS / "dcgan_shapes.yaml", argument, cli=Parsed).arguments.trainer
    fragment = yaml.safe_load(path.read_text())
    assert {key: trainer[key] for key in fragment} == fragment
    defaults = yaml.safe_load(DEFAULTS.read_text())["trainer"]
    assert {key: trainer[key] for key in defaults} == defaults


def test_a_flag_wins_over_a_trainer_fragment(build: Build) -> None:
    fragment = f"--trainer={CONFIGS / 'trainer' / 'gpu.yaml'}"
    trainer = build(
        CONFIGS / "dcgan_shapes.yaml", fragment, "--trainer.precision=16-mixed", cli=Parsed
    ).arguments.trainer
    assert (trainer.accelerator, trainer.precision) == ("gpu", "16-mixed")


def test_the_cpu_fragment_builds(build: Build) -> None:
    cli = build(CONFIGS / "dcgan_shapes.yaml", f"--trainer={CONFIGS / 'trainer' / 'cpu.yaml'}")
    assert cli.trainer.num_devices == 1


KEYED_CALLBACKS = {key: callback for key, callback in CALLBACKS if key is not None}

# Mistakes.

MISSPELT: dict[str, dict[str, Any]] = {
    "model": {"model": {"init_args": {"misspelt": 1}}},
    "model.adversarial": {"model": {"init_args": {"adversarial": {"misspelt": 1}}}},
    "data": {"data": {"init_args": {"misspelt": 1}}},
    "trainer": {"trainer": {"misspelt": 1}},
    **{key: {key: {"misspelt": 1}} for key in KEYED_CALLBACKS},
    "top level": {"misspelt": 1},
}


@pytest.mark.parametrize("section", MISSPELT)
def test_a_misspelt_key_is_named(section: str, build: Build, more: Callable[[dict[str, Any]], str]) -> None:
    with pytest.raises(InputError, match="misspelt") as caught:
        build(CONFIGS / "dcgan_fashion_mnist.yaml", more(MISSPELT[section]), cli=Parsed)
    assert "\n" not in str(caught.value)
    if section != "top level":
        assert section.split(".")[0] in str(caught.value)


@pytest.mark.parametrize("section", [*KEYED_CALLBACKS, "trainer", "model", "data"])
def test_a_misspelt_flag_is_named(section: str, build: Build) -> None:
    with pytest.raises(InputError, match="misspelt"):
        build(CONFIGS / "dcgan_fashion_mnist.yaml", f"--{section}.misspelt=1", cli=Parsed)


# null.


def optional_settings() -> dict[str, list[str]]:
    """By key, the settings of the keyed callbacks that may be None."""
    hints = {key: typing.get_type_hints(callback.__init__) for key, callback in KEYED_CALLBACKS.items()}
    return {
        key: [name for name, hint in of.items() if type(None) in typing.get_args(hint)] for key, of in hints.items()
    }


def test_null_reaches_every_optional_setting_of_the_keyed_callbacks(
    build: Build, more: Callable[[dict[str, Any]], str]
) -> None:
    settings = {key: dict.fromkeys(found) for key, found in optional_settings().items() if found}
    assert {"budget", "quality", "checkpoints"} <= set(settings)
    cli = build(CONFIGS / "dcgan_fashion_mnist.yaml", more(settings))
    callbacks = {type(callback): callback for callback in cli.trainer.callbacks}  # type: ignore[attr-defined]
    for key, nothing in settings.items():
        for name in nothing:
            expected = "dcgan_fashion_mnist" if (key, name) == ("run", "name") else None  # filled in from the config
            assert getattr(callbacks[KEYED_CALLBACKS[key]], name) == expected, f"{key}.{name}"

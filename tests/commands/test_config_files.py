"""Configs as they are written: `include`, and classes by their names alone."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from commands.options.command_line import DEFAULTS, TrainingCLI, as_input_errors, quietly
from commands.options.configs import read_config
from commands.options.errors import InputError
from commands.options.sources import data_from
from main import main

CONFIGS = DEFAULTS.parent
Write = Callable[[str, str], Path]


class Parsed(TrainingCLI):
    """What is parsed, and nothing built."""

    def instantiate_classes(self) -> None:
        """Nothing."""


def parsed(*words: object) -> dict[str, Any]:
    with as_input_errors(), quietly():
        return Parsed(["fit", *map(str, words)]).config_as_plain()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a config and gives its path."""

    def make(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return make


BASE = """
model:
  class_path: DCGAN
  init_args:
    width: 8
    adversarial:
      lr: {class_path: Cosine, init_args: {start: 1e-3, end: 0.0, kimg: 10}}
      loss: {class_path: Wasserstein, init_args: {drift: 0.5}}
      regularizers: [{class_path: R1, init_args: {gamma: 0.1}}]
data: Shapes
budget: {kimg: 10}
"""


@pytest.fixture
def base(write: Write) -> Path:
    return write("base.yaml", BASE)


# Names.


def test_every_place_takes_a_name_and_the_whole_configuration_has_full_paths(base: Path) -> None:
    model = parsed("--config", base, "--model.adversarial.augmentation", "DiffAugment")["model"]
    adversarial = model["init_args"]["adversarial"]["init_args"]
    assert model["class_path"] == "models.dcgan.DCGAN"
    assert adversarial["lr"]["class_path"] == "models.parts.schedules.Cosine"
    assert adversarial["lr"]["init_args"]["start"] == 1e-3  # a number without a point, as jsonargparse reads it
    assert adversarial["loss"]["class_path"] == "models.parts.losses.Wasserstein"
    assert adversarial["regularizers"][0]["class_path"] == "models.parts.regularizers.R1"
    assert adversarial["augmentation"]["class_path"] == "models.parts.augment.diffaugment.DiffAugment"


def test_flags_alone_and_json_take_names(base: Path) -> None:
    flags = ("--model", "DCGAN", "--data=Shapes", "--model.adversarial.loss", "Hinge", "--data.resolution", 16)
    config = parsed(*flags, "--config", '{"model.adversarial.lr": {"class_path": "Linear", "init_args": '
                    '{"start": 1, "end": 0, "kimg": 1}}}')  # fmt: skip
    adversarial = config["model"]["init_args"]["adversarial"]["init_args"]
    assert config["data"] == parsed("--config", base, "--data.resolution=16")["data"]
    assert adversarial["loss"]["class_path"] == "models.parts.losses.Hinge"
    assert adversarial["lr"]["class_path"] == "models.parts.schedules.Linear"
    same = parsed("--model", "models.dcgan.DCGAN", "--data", "datamodules.shapes.Shapes")
    assert same["model"]["class_path"] == "models.dcgan.DCGAN"


def test_a_class_has_help_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--model.help", "RealNVP")
    assert "--model.couplings" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model", "StyleGAN3"), "model: there is no class 'StyleGAN3'; did you mean StyleGAN2?"),
        (("--data", "Shape"), "data: there is no class 'Shape'; did you mean Shapes?"),
        (("--model.adversarial.loss", "Hing"), "model.adversarial.loss: there is no class 'Hing'; did you mean Hinge?"),
        (
            ("--model.adversarial.lr", '{"class_path": "Cosin", "init_args": {"start": 1, "end": 0, "kimg": 1}}'),
            "model.adversarial.lr: there is no class 'Cosin'; did you mean Cosine?",
        ),
        (("--model.adversarial.lr", "high"), "model.adversarial.lr: Expected a <class 'float'>"),
        (("--model", "Hinge"), "model: the class models.parts.losses.Hinge does not fit here"),
        (("--model", "my_nowhere.Model"), "model: No module named 'my_nowhere'; put a file of yours in the working"),
    ],
)
def test_a_wrong_name_is_one_line(base: Path, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError) as caught:
        parsed("--config", base, *words)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_data_are_found_by_name(base: Path, write: Write) -> None:
    fragment = write("data.yaml", "class_path: Shapes\ninit_args: {resolution: 16, train_size: 20, test_size: 10}")
    for path in (fragment, write("run.yaml", "include: base.yaml\ndata: data.yaml")):
        assert data_from(path).data_shape == (3, 16, 16)
    misspelt = write("misspelt.yaml", "data: Shapez")
    with pytest.raises(ValueError, match=r"misspelt\.yaml: class_path 'Shapez': no class .* did you mean Shapes\?"):
        data_from(misspelt)


# Variants.


def test_a_variant_is_its_sibling_and_what_it_says(base: Path, write: Write) -> None:
    variant = write("variant.yaml", "include: base.yaml\nmodel: {init_args: {width: 16}}\ndata: {init_args: {seed: 3}}")
    expected = yaml.safe_load(BASE)
    expected["model"]["init_args"]["width"] = 16
    expected["data"] = {"class_path": "Shapes", "init_args": {"seed": 3}}
    expected["model"]["init_args"]["adversarial"]["lr"]["init_args"]["start"] = 1e-3
    assert read_config(variant) == expected
    flags = ("--model.width=16", "--data.seed=3", "--run.name=variant")
    assert parsed("--config", variant) == parsed("--config", base, *flags)
    with as_input_errors(), quietly():
        cli = TrainingCLI(["fit", "--config", str(variant), "--data.resolution=16", "--run.wandb=off"])
    assert cli.arguments.run.name == "variant"


def test_a_shipped_variant_is_its_sibling_with_ada() -> None:
    variant = parsed("--config", CONFIGS / "stylegan2_ada_cifar10.yaml")
    ada = variant["model"]["init_args"]["adversarial"]["init_args"]["augmentation"]
    assert ada["class_path"] == "models.parts.augment.ada.ADA"
    assert ada["init_args"]["speed_kimg"] == 500
    variant["model"]["init_args"]["adversarial"]["init_args"]["augmentation"] = None
    sibling = parsed("--config", CONFIGS / "stylegan2_cifar10.yaml")
    assert (variant.pop("run")["name"], sibling.pop("run")["name"]) == ("stylegan2_ada_cifar10", "stylegan2_cifar10")
    assert variant == sibling


def test_lists_replace_and_another_class_drops_the_arguments_below(base: Path, write: Write) -> None:
    variant = write(
        "variant.yaml",
        """
include: base.yaml
model:
  init_args:
    adversarial:
      lr: {class_path: models.parts.schedules.Cosine, init_args: {end: 1e-4}}
      loss: {class_path: Hinge}
      regularizers: [{class_path: R2, init_args: {gamma: 0.2}}]
data: {class_path: Points, init_args: {batch_size: 8}}
""",
    )
    content = read_config(variant)
    adversarial = content["model"]["init_args"]["adversarial"]
    assert adversarial["lr"]["init_args"] == {"start": 1e-3, "end": 1e-4, "kimg": 10}  # the class is the same
    assert adversarial["loss"] == {"class_path": "Hinge"}
    assert [each["class_path"] for each in adversarial["regularizers"]] == ["R2"]
    assert content["data"]["class_path"] == "Points"


def test_what_is_included_is_read_from_where_it_lies(write: Write) -> None:
    """Its own fragments and what it includes in turn, and a fragment takes settings that are laid over it."""
    write("below/shapes.yaml", "class_path: Shapes\ninit_args: {resolution: 16}")
    write("below/grand.yaml", "model: {class_path: DCGAN, init_args: {width: 8}}\ndata: shapes.yaml")
    write("below/middle.yaml", "include: grand.yaml\nbudget: {kimg: 3}")
    top = write("top.yaml", "include: below/middle.yaml\ndata: {init_args: {train_size: 20}}")
    config = parsed("--config", top)
    assert (config["data"]["init_args"]["resolution"], config["data"]["init_args"]["train_size"]) == (16, 20)
    assert (config["model"]["init_args"]["width"], config["budget"]["kimg"]) == (8, 3)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"top.yaml": "include: nowhere.yaml"}, r"top\.yaml: no config at .*nowhere\.yaml"),
        ({"top.yaml": "include: 3"}, "include: 3: give one run config"),
        (
            {"top.yaml": "include: broken.yaml", "broken.yaml": "model: [unclosed"},
            r"broken\.yaml is not YAML: .*line 1",
        ),
        (
            {"top.yaml": "include: a.yaml", "a.yaml": "include: b.yaml", "b.yaml": "include: a.yaml"},
            r"a\.yaml includes itself: top\.yaml -> a\.yaml -> b\.yaml -> a\.yaml",
        ),
    ],
)
def test_what_cannot_be_included_is_named(
    files: dict[str, str], said: str, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [write(name, text) for name, text in files.items()]
    with pytest.raises((InputError, FileNotFoundError), match=said):
        read_config(paths[0])
    assert main(["fit", "--config", str(paths[0])]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(said, line)

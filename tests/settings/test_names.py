"""Class names: found by reading, and the full paths that they stand for."""

import subprocess
import sys
from pathlib import Path

import pytest

import models
from models.parts.losses import Hinge
from settings.names import like, modules_with, named

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("StyleGAN2", "models.stylegan2"),
        ("Glow", "models.flow"),
        ("Minimax", "models.parts.losses"),  # derives from a loss
        ("ADA", "models.parts.augment.ada"),
        ("Augmentation", "models.parts.augment"),
        ("FashionMNIST", "datamodules.fashion_mnist"),
        ("TwoMoons", "datamodules.points"),
    ],
)
def test_a_name_is_found_where_its_class_is_defined(name: str, module: str) -> None:
    assert modules_with(name) == [module]


@pytest.mark.parametrize("name", ["Generator", "Conv2d", "Memory", "GANs", "", "models"])
def test_other_names_are_none(name: str) -> None:
    assert modules_with(name) == []


def test_a_short_name_and_a_full_path_lead_to_the_class() -> None:
    assert named("Hinge") is named("models.parts.losses.Hinge") is Hinge


def test_a_name_that_is_none_is_told_with_those_like_it() -> None:
    with pytest.raises(ValueError, match=r"^class_path 'hing': no class of that name .*; did you mean Hinge\?$"):
        named("hing")
    assert like("StyleGAN3") == "; did you mean StyleGAN2?"
    assert like("nonsense") == ""


def test_a_name_that_is_there_twice_asks_for_the_full_path(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("from models.parts import losses\nclass Hinge(losses.Hinge): ...\n")
    models.__path__.append(str(tmp_path))
    try:
        with pytest.raises(
            ValueError, match=r"several classes; write models\.parts\.losses\.Hinge or models\.other\.H"
        ):
            named("Hinge")
    finally:
        models.__path__.remove(str(tmp_path))
    assert "models.other" not in sys.modules


def test_a_short_name_imports_no_sibling() -> None:
    """A model and data by their names, built in a fresh interpreter; the model describes itself by its full path."""
    program = """
import sys
from commands.options.command_line import TrainingCLI, quietly
from settings.configurable import describe
with quietly():
    cli = TrainingCLI(["fit", "--config", '{"model": "StyleGAN2", "data": {"class_path": "Shapes"}}',
                       "--model.channel_max=8", "--data.resolution=16", "--run.wandb=off"])
described = describe(cli.model)["class_path"], cli.config_as_plain()["model"]["class_path"]
loaded = {name for name in sys.modules if name.startswith(("models.", "datamodules.")) and name.count(".") == 1}
print(*sorted(set(described)), *sorted(loaded - {"models.parts", "models.training", "datamodules.base"}))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    described, *loaded = done.stdout.split()
    assert described == "models.stylegan2.StyleGAN2"
    assert [name for name in loaded if name.startswith("models.")] == ["models.stylegan2"]
    assert {"datamodules.shapes"} <= set(loaded)
    assert not {"datamodules.cifar10", "datamodules.fashion_mnist"} & set(loaded)

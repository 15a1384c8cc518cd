"""The fragments under configs/data."""

from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser
from PIL import Image

from commands.options.configs import MODE
from datamodules.base import DataModule

FRAGMENTS = Path(__file__).parents[2] / "configs" / "data"


@pytest.mark.parametrize("fragment", sorted(path.name for path in FRAGMENTS.glob("*.yaml")))
def test_a_fragment_builds_its_data_module(fragment: str, tmp_path: Path) -> None:
    parser = ArgumentParser(exit_on_error=False, parser_mode=MODE)
    parser.add_subclass_arguments(DataModule, "data")
    arguments = [f"--data={FRAGMENTS / fragment}", "--data.batch_size=32"]
    if fragment == "image_folder.yaml":
        Image.new("RGB", (12, 12)).save(tmp_path / "a.png")
        arguments.append(f"--data.data_dir={tmp_path}")
    data = parser.instantiate(parser.parse_args(arguments)).data
    assert isinstance(data, DataModule)
    assert data.batch_size == 32
    assert len(data.class_names) == data.num_classes
    assert len(data.data_shape) == 3
    assert torch.tensor(data.data_shape).prod() > 0

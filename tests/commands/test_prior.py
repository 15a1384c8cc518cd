"""A prior over another model's codes from the command line: the run of that model is named, and then not needed."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from commands.options.errors import InputError
from commands.sample import run as run_sample
from commands.training import run as run_training
from tests.models.toy_coder import ToyCoder, save_model


def arguments(root: Path, codes_from: Path) -> list[str]:
    settings = {"width": 16, "depth": 1, "heads": 2, "codes_from": str(codes_from)}
    model = {"class_path": "models.transformer.Transformer", "init_args": settings}
    data = {"class_path": "datamodules.shapes.Shapes", "init_args": {"resolution": 16, "train_size": 32}}
    return [
        f"--model={json.dumps(model)}", f"--data={json.dumps(data)}", "--data.batch_size=8", "--budget.kimg=0.016",
        "--run.wandb=off", f"--run.root={root}", "--run.name=prior", "--trainer.accelerator=cpu",
        "--trainer.precision=32-true", "--quality.num_samples=4", "--quality.resolution=32",
        f"--quality.cache_dir={root / 'cache'}", "--samples.rows=2", "--samples.columns=2",
    ]  # fmt: skip


def test_a_prior_over_the_codes_of_a_run(tmp_path: Path) -> None:
    checkpoints = tmp_path / "coder" / "20260101-000000-0000" / "checkpoints"
    checkpoints.mkdir(parents=True)
    save_model(ToyCoder((3, 16, 16)), checkpoints / "kimg000001.000.ckpt")
    assert run_training("fit", arguments(tmp_path, tmp_path / "coder")) == 0
    (folder,) = (tmp_path / "prior").iterdir()
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["model"]["init_args"]["codes_from"].endswith("kimg000001.000.ckpt")
    assert set(json.loads((folder / "run.json").read_text())["parameters"]) == {"network"}
    shutil.rmtree(tmp_path / "coder")
    out = tmp_path / "x.png"
    assert run_sample(["--ckpt_path", str(folder), "--num", "2", "--out", str(out)]) == 0
    assert out.is_file()


def test_a_run_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere") as caught:
        run_training("fit", arguments(tmp_path, tmp_path / "nowhere"))
    assert "\n" not in str(caught.value)

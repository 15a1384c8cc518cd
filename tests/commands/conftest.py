"""A run small enough for a test: DCGAN at 16 px on drawn shapes, in float32; and what verbs' tests share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from PIL import Image

from main import main
from media.pictures import to_uint8

Run = Callable[..., int]

CONFIG = """
model:
  class_path: models.dcgan.DCGAN
  init_args: {{width: 8, latent_dim: 8, adversarial: {{ema_halflife_kimg: 0.05}}}}
data:
  class_path: datamodules.shapes.Shapes
  init_args: {{resolution: 16, train_size: 50, test_size: 20, batch_size: 8}}
trainer: {{accelerator: cpu, devices: 1, precision: 32-true}}
run: {{root: {root}, wandb: "off", report_every_s: 1}}
budget: {{kimg: 0.08}}
quality: {{every_kimg: 0.04, num_samples: 16, resolution: 32, cache_dir: {cache}}}
samples: {{rows: 2, columns: 2}}
"""


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real statistics, computed once for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def config(tmp_path: Path, cache: Path) -> Path:
    """The path of the small run's config; its runs lie in tmp_path / "runs" / "small"."""
    path = tmp_path / "small.yaml"
    path.write_text(CONFIG.format(root=tmp_path / "runs", cache=cache))
    return path


@pytest.fixture
def fit(config: Path) -> Run:
    """Runs `fit` on the small config with further arguments, in this process; gives the exit code."""
    return lambda *arguments: main(["fit", "--config", str(config), *map(str, arguments)])


def only_run(config: Path) -> Path:
    """The folder of the one run there is."""
    (folder,) = (config.parent / "runs" / "small").iterdir()
    return folder


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def checkpoint(folder: Path, name: str = "last.ckpt") -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / name, weights_only=True)


def assert_same_state(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Weights, averages, buffers and optimizer states equal bit for bit, and the counters too."""
    assert a["atelier"] == b["atelier"]
    assert a["global_step"] == b["global_step"]
    assert a["state_dict"].keys() == b["state_dict"].keys()
    for name, value in a["state_dict"].items():
        assert torch.equal(value, b["state_dict"][name]), name
    for mine, theirs in zip(a["optimizer_states"], b["optimizer_states"], strict=True):
        assert mine["param_groups"] == theirs["param_groups"]
        for key, state in mine["state"].items():
            for name, value in state.items():
                assert torch.equal(value, theirs["state"][key][name]), (key, name)


# Untrained models, and grids of pictures.


def saved(model: lightning.LightningModule, path: Path) -> Path:
    """A checkpoint of a model that was not trained."""
    checkpoint = {"state_dict": model.state_dict(), "optimizer_states": [], "pytorch-lightning_version": "2.6"}
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return path


def bytes_of(path: Path) -> np.ndarray[Any, Any]:
    """A picture file, int (H, W, C)."""
    picture = np.array(Image.open(path)).astype(int)
    return picture[:, :, None] if picture.ndim == 2 else picture


def cells(path: Path, rows: int, columns: int) -> np.ndarray[Any, Any]:
    """The pictures of a grid, int (rows, columns, side, side, C), without the lines between them."""
    picture = bytes_of(path)
    side = (picture.shape[0] - 2) // rows - 2
    assert picture.shape[:2] == (rows * (side + 2) + 2, columns * (side + 2) + 2)
    starts = [[(2 + row * (side + 2), 2 + column * (side + 2)) for column in range(columns)] for row in range(rows)]
    return np.array([[picture[y : y + side, x : x + side] for y, x in line] for line in starts])


def pixels(pictures: torch.Tensor) -> np.ndarray[Any, Any]:
    """Samples (N, C, H, W) as a picture file has them, int (N, H, W, C)."""
    return to_uint8(pictures).permute(0, 2, 3, 1).numpy().astype(int)

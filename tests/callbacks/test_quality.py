"""The quality figure is the distance between the data and the samples, and nothing else is touched."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from callbacks.quality import Quality
from datamodules.shapes import Shapes
from features.efficientnet import EfficientNetFeatures
from main import main
from media.pictures import to_uint8
from metrics.frechet import GaussianStatistics, frechet_distance
from models import load
from models.dcgan import DCGAN
from tests.commands.conftest import CONFIG


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, with W&B kept offline."""
    folder = tmp_path_factory.mktemp("runs")
    config = folder / "small.yaml"
    config.write_text(CONFIG.format(root=folder, cache=folder / "cache"))
    assert main(["fit", "--config", str(config), "--run.wandb", "offline", "--budget.kimg", "0.04"]) == 0
    (found,) = (folder / "small").iterdir()
    return found


def test_the_figure_is_the_distance_of_the_samples_from_the_data(run: Path) -> None:
    extractor = EfficientNetFeatures(resolution=32)
    data = Shapes(resolution=16, train_size=50, test_size=20)
    data.setup("fit")
    statistics = [GaussianStatistics.empty(1280) for _ in range(2)]
    statistics[0].update(extractor(to_uint8(data.examples("train", range(50))[0])))
    statistics[1].update(extractor(to_uint8(load(run / "checkpoints" / "last.ckpt").sample(range(16)))))
    figure = json.loads((run / "run.json").read_text())["figures"]["fd_effnet"]
    assert figure["value"] == pytest.approx(frechet_distance(*statistics), rel=1e-3)  # float32 features, other batches
    assert figure["best"]["value"] <= figure["value"]
    protocol = figure["protocol"]
    assert protocol["extractor"] == "EffNet"
    assert protocol["data"] == data.fingerprint
    assert (protocol["reference"], protocol["reference_samples"], protocol["num_samples"]) == ("train", 50, 16)
    assert protocol["sampler"] == {"weights": "ema", "precision": "float32", "truncation": None}


def test_real_statistics_are_kept_for_the_next_run(run: Path) -> None:
    (kept,) = (run.parent.parent / "cache").glob("*/mean.npy")
    before = kept.stat().st_mtime_ns
    config = run.parent.parent / "small.yaml"
    assert main(["fit", "--config", str(config), "--run.name", "again", "--budget.kimg", "0.04"]) == 0
    assert kept.stat().st_mtime_ns == before


def test_the_extractor_is_in_no_checkpoint(run: Path) -> None:
    names = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in names} == {"generator", "discriminator", "average"}


def test_the_offline_wandb_run_has_the_pictures_as_they_are(run: Path) -> None:
    (folder,) = (run / "wandb").glob("offline-run-*")
    assert list(folder.glob("run-*.wandb"))
    saved = [Image.open(path).tobytes() for path in sorted((run / "samples").glob("*.png"))]
    logged = [Image.open(path).tobytes() for path in (folder / "files" / "media" / "images").glob("samples_*.png")]
    assert sorted(saved) == sorted(logged)
    assert any(max(pixels) > 0 for pixels in saved)


def test_a_missing_split_is_said_before_the_first_batch(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = run.parent.parent / "small.yaml"
    excerpt = (
        '{"class_path": "datamodules.fashion_mnist.FashionMNIST", "init_args": {"excerpt": true, "batch_size": 8}}'
    )
    code = main(["fit", "--config", str(config), "--data", excerpt, "--quality.reference", "test"])
    assert code == 2
    assert "test" in capsys.readouterr().err


def test_what_is_no_picture_is_not_measured() -> None:
    assert Quality.applies(DCGAN((3, 16, 16), width=4))
    assert not Quality.applies(DCGAN((2, 16, 16), width=4))

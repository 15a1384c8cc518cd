"""`sample` and `info`: a checkpoint describes itself."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from main import main
from media.pictures import to_uint8
from models import load
from tests.commands.conftest import CONFIG, checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A finished run of a conditional model."""
    folder = tmp_path_factory.mktemp("runs")
    config = folder / "small.yaml"
    config.write_text(CONFIG.format(root=folder, cache=cache))
    assert main(["fit", "--config", str(config), "--model.conditional", "true", "--budget.kimg", "0.016"]) == 0
    (found,) = (folder / "small").iterdir()
    return found


def sample(run: Path, out: Path, *arguments: object) -> int:
    return main(["sample", "--ckpt_path", str(run), "--out", str(out), *map(str, arguments)])


def test_a_folder_of_pngs_is_what_the_model_draws(run: Path, tmp_path: Path) -> None:
    assert sample(run, tmp_path / "out", "--num", 5, "--seed", 3, "--labels", 1, 4, "--batch_size", 2) == 0
    drawn = to_uint8(load(run / "checkpoints" / "last.ckpt").sample(range(5), [1, 4, 1, 4, 1], seed=3))
    for i in range(5):
        saved = np.array(Image.open(tmp_path / "out" / f"{i:06d}.png")).astype(int)
        assert np.abs(saved - drawn[i].permute(1, 2, 0).numpy()).max() <= 1  # another batch size rounds differently
    protocol = json.loads((tmp_path / "out" / "protocol.json").read_text())
    assert protocol["seed"] == 3
    assert protocol["settings"]["weights"] == "ema"
    assert protocol["device"] == "cpu"
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_one_grid(run: Path, tmp_path: Path) -> None:
    assert sample(run, tmp_path / "grid.png", "--num", 9, "--truncation", 0.5) == 0
    assert Image.open(tmp_path / "grid.png").size == (3 * 18 + 2, 3 * 18 + 2)


def test_an_npz(run: Path, tmp_path: Path) -> None:
    assert sample(run, tmp_path / "samples.npz", "--num", 7, "--labels", 2) == 0
    with np.load(tmp_path / "samples.npz", allow_pickle=False) as arrays:
        assert arrays["samples"].shape == (7, 16, 16, 3)
        assert arrays["samples"].dtype == np.uint8
        assert arrays["labels"].tolist() == [2] * 7
        assert json.loads(str(arrays["protocol"]))["num"] == 7


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--num", "0"], "--num"),
        (["--labels", "99"], "labels must lie in 0..15"),
        (["--truncation", "-1"], "truncation must be above 0"),
        (["--standing_statistics", "4"], "DCGAN has no standing_statistics"),
        (["--truncation_psi", "0.5"], "DCGAN has no truncation_psi"),
        (["--device", "nonsense"], "--device nonsense"),
    ],
)
def test_bad_input_is_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert sample(run, tmp_path / "out", *arguments) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_no_checkpoint_is_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (run / "checkpoints" / "last.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.ckpt").write_text("hello")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    for name in ("cut.ckpt", "text.ckpt", "foreign.ckpt", "missing.ckpt", "."):
        assert sample(tmp_path / name, tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert str(tmp_path / name) in error
        assert error.count("\n") == 1


def test_info_of_a_run_a_checkpoint_and_a_config(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(run), "--json", "--device", "cpu", "--measure"]) == 0
    of_run = json.loads(capsys.readouterr().out)
    counts = {
        name: sum(p.numel() for p in network.parameters())
        for name, network in load(run / "checkpoints" / "last.ckpt").networks().items()
    }
    assert of_run["parameters"] == counts
    assert of_run["batch_size"] == 8  # read from the run's config
    assert of_run["s_per_kimg"] > 0
    assert main(["info", str(run), "--json", "--device", "cpu"]) == 0
    unmeasured = json.loads(capsys.readouterr().out)
    assert unmeasured == {**of_run, "s_per_kimg": None, "measured_peak_bytes": None, "measured_peak_source": None}
    size = (run / "checkpoints" / "last.ckpt").stat().st_size
    assert of_run["checkpoint_bytes"] == pytest.approx(size, rel=0.5)  # the rest is zip entries: much of a tiny file
    before = checkpoint(run)
    assert main(["info", str(run / "checkpoints" / "last.ckpt"), "--device", "cpu"]) == 0
    assert "parameters" in capsys.readouterr().out
    assert all(torch.equal(value, checkpoint(run)["state_dict"][name]) for name, value in before["state_dict"].items())
    assert main(["info", str(run / "config.yaml"), "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == counts

"""A model of text from the command line: fit, its files, likelihood, sample."""

import json
from pathlib import Path

import pytest

from commands.sample import run as run_sample
from commands.training import run as run_training
from models import load

TEXT = "to be, or not to be: that is the question.\n" * 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run."""
    root = tmp_path_factory.mktemp("text")
    (root / "words.txt").write_text(TEXT)
    config = {
        "class_path": "models.transformer.Transformer",
        "init_args": {"width": 16, "depth": 1, "heads": 2},
    }
    data = {"class_path": "datamodules.text.Text", "init_args": {"path": str(root / "words.txt"), "length": 12}}
    arguments = [f"--model={json.dumps(config)}", f"--data={json.dumps(data)}", "--data.batch_size=8"]
    arguments += ["--budget.kimg=0.032", "--run.wandb=off", f"--run.root={root}", "--run.name=text"]
    arguments += ["--trainer.accelerator=cpu", "--trainer.precision=32-true", "--likelihood.num_samples=4"]
    assert run_training("fit", arguments) == 0
    (found,) = (root / "text").iterdir()
    return found


def test_a_fit_writes_text_and_bits_a_character(folder: Path) -> None:
    texts = sorted((folder / "samples").glob("*.txt"))
    assert texts[0].name == "kimg000000.000.txt"
    assert texts[-1].read_text() != texts[0].read_text()
    assert texts[-1].read_text().count("---- sample") == 4
    assert json.loads((folder / "run.json").read_text())["figures"]["bits_per_character"]["value"] > 0


def test_a_checkpoint_writes_text_by_itself(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.txt"
    assert run_sample(["--ckpt_path", str(folder), "--num", "3", "--out", str(out), "--batch_size", "2"]) == 0
    assert str(out) in capsys.readouterr().out
    model = load(folder / "checkpoints" / "last.ckpt")
    for text in model.text_of(model.sample(range(3))):
        assert len(text) == 12
        assert set(text) <= set(TEXT)
        assert text in out.read_text()
    assert json.loads((tmp_path / "x.txt.json").read_text())["num"] == 3


def test_text_does_not_go_into_a_picture(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x\.png: text cannot be written there"):
        run_sample(["--ckpt_path", str(folder), "--out", str(tmp_path / "x.png")])

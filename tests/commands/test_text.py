"""A model of text from the command line: fit, its files, likelihood, sample."""

import json
from pathlib import Path

import pytest

from commands.diagnose import run as run_diagnose
from commands.evaluate import run as run_evaluate
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


@pytest.mark.parametrize("name", ["bits_per_character", "bits_per_dim"])
def test_bits_of_a_checkpoint_are_measured_by_either_name(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--ckpt_path", str(folder), "--metrics", name, "--likelihood_samples", "4", "--json"]
    assert run_evaluate(arguments) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert list(figures) == ["bits_per_character"]
    kept = json.loads((folder / "run.json").read_text())["figures"]["bits_per_character"]["value"]
    assert figures["bits_per_character"]["value"] == pytest.approx(kept, rel=1e-6)


def test_bits_are_not_measured_on_a_text_of_other_characters(folder: Path, tmp_path: Path) -> None:
    """Of as many, in an alphabet of its own: its tokens would be read as letters that they are not."""
    (tmp_path / "other.txt").write_text(TEXT.replace("q", "z"))
    text = (folder / "config.yaml").read_text()
    path = next(line.split("path: ")[1] for line in text.splitlines() if line.strip().endswith("words.txt"))
    (tmp_path / "other.yaml").write_text(text.replace(path, str(tmp_path / "other.txt")))
    arguments = ["--ckpt_path", str(folder), "--metrics", "bits_per_character"]
    with pytest.raises(ValueError, match=r"other\.yaml: its text has other characters"):
        run_evaluate([*arguments, "--reference", str(tmp_path / "other.yaml")])
    with pytest.raises(ValueError, match="not pictures; of this model measure --metrics bits_per_dim"):
        run_evaluate(["--ckpt_path", str(folder), "--metrics", "frechet"])


def test_text_is_not_diagnosed(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"\(12,\) are not pictures; only those are diagnosed"):
        run_diagnose(["--ckpt_path", str(folder)])


def test_text_does_not_go_into_a_picture(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x\.png: text cannot be written there"):
        run_sample(["--ckpt_path", str(folder), "--out", str(tmp_path / "x.png")])

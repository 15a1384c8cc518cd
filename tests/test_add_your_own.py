"""docs/add-your-own.md: the test writes out its files word for word and runs its commands."""

import importlib
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import commands
import datamodules
import main as command_line
import metrics
import models
import models.parts
from main import main
from metrics import evaluation

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs" / "add-your-own.md").read_text()
FILES = dict(re.findall(r"^`(\S+)`:\n\n```(?:python|yaml)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
SHELL = "".join(re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))

SMALL = {
    "fit": [
        *("--budget.kimg=0.3", "--quality.num_samples=16", "--quality.reference_samples=16", "--quality.resolution=32"),
        *("--quality.every_kimg=1", "--quality.cache_dir=cache", "--run.wandb=off", "--trainer.accelerator=cpu"),
        *("--trainer.devices=1", "--trainer.precision=32-true"),
    ],
    "sample": ["--num=4"],
    "evaluate": ["--num_samples=16", "--reference_samples=16", "--resolution=32", "--cache_dir=cache"],
    "mean": ["--batch_size=4"],
}
"""Flags by verb that keep the page's commands short here."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory: a folder with the page's files, which are added to our packages."""
    for name, text in FILES.items():
        assert not (REPOSITORY / name).exists(), f"{name} is in the project: the page's own would not be tested"
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    packages = {package.__name__: package for package in (models, models.parts, datamodules, metrics, commands)}
    folders = {name: tmp_path.joinpath(*name.split(".")) for name in packages}
    added = {f"{name}.{path.stem}" for name, folder in folders.items() for path in folder.glob("*.py")}
    for name, package in packages.items():
        package.__path__.append(str(folders[name]))
    monkeypatch.setattr(sys, "path", [*sys.path])
    importlib.invalidate_caches()
    yield tmp_path
    for name, package in packages.items():
        package.__path__.remove(str(folders[name]))
    sys.modules.pop("my_models", None)
    for name in added:
        package, _, module = name.rpartition(".")
        sys.modules.pop(name, None)
        monkeypatch.delattr(f"{package}.{module}", raising=False)


@pytest.fixture
def entries(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two lines that the page adds to files of ours."""
    spread = importlib.import_module("metrics.feature_spread").FeatureSpread()
    monkeypatch.setattr(evaluation, "METRICS", (*evaluation.METRICS, spread))
    ((verb, line),) = re.findall(r'`"(\w+)": "(.+)",`', PAGE)
    monkeypatch.setitem(command_line.VERBS, verb, line)


def test_a_model_or_data_set_is_two_files_and_a_loss_a_penalty_a_layer_a_metric_or_a_verb_one() -> None:
    parts = [f"models/parts/{name}.py" for name in ("exponential", "between", "bumps")]
    data, model = ["datamodules/rings.py", "configs/data/rings.yaml"], ["models/toy.py", "configs/toy_rings.yaml"]
    others = ["metrics/feature_spread.py", "commands/mean.py"]
    assert list(FILES) == [*data, *model, *parts, *others, "my_models.py", "my_run.yaml"]
    assert max(len(text.splitlines()) for text in FILES.values()) <= 70


@pytest.mark.usefixtures("entries")
def test_the_commands_of_the_page_work(project: Path) -> None:
    commands = [shlex.split(line) for line in SHELL.splitlines()]
    assert [command[:3] for command in commands] == [
        ["python", "main.py", verb] for verb in ("fit", "fit", "sample", "evaluate", "mean", "fit", "sample")
    ]
    for _, _, verb, *arguments in commands:
        assert main([verb, *arguments, *SMALL[verb]]) == 0

    for name in ("toy_rings", "toy_small"):
        (run,) = (project / "runs" / name).iterdir()
        record = json.loads((run / "run.json").read_text())
        assert record["status"] == "done"
        assert record["model"]["class_path"] == "models.toy.Toy"
        assert record["model"]["init_args"]["width"] == (256 if name == "toy_rings" else 64)
        training = record["model"]["init_args"]["adversarial"]["init_args"]
        assert training["loss"]["class_path"] == "models.parts.exponential.Exponential"
        assert training["regularizers"][1]["class_path"] == "models.parts.between.Between"
        logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert {"r1_penalty", "between_penalty"} <= {key for row in logged for key in row}
        assert record["data"]["train_size"] == (4096 if name == "toy_rings" else 1000)
        assert record["figures"]["fd_effnet"]["value"] > 0
        assert models.load(run / "checkpoints" / "last.ckpt").sample(range(3)).shape == (3, 1, 16, 16)
        assert Image.open(max((run / "samples").glob("*.png"))).size >= (8 * 16, 8 * 16)
    assert Image.open(project / "rings.png").size >= (2 * 16, 2 * 16)
    (evaluated,) = (project / "runs" / "toy_rings").glob("*/evaluations/*.json")
    assert json.loads(evaluated.read_text())["figures"]["feature_spread"]["better"] == "higher"
    assert Image.open(project / "mean.png").size == (16, 16)
    (run,) = (project / "runs" / "my_run").iterdir()
    assert json.loads((run / "run.json").read_text())["model"]["class_path"] == "my_models.MyGAN"
    assert json.loads((project / "mine.png.json").read_text())["settings"]["contrast"] == 0.5

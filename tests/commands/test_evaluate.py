"""`evaluate` and `diagnose`: figures of a checkpoint and of finished samples, and what is wrong with them."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.shapes import Shapes
from features.efficientnet import EfficientNetFeatures
from main import main
from media.pictures import save_png, to_uint8
from metrics.frechet import GaussianStatistics, frechet_distance
from tests.commands.conftest import CONFIG

QUICK = ("--resolution", "32", "--batch_size", "32")
DATA = """
class_path: datamodules.shapes.Shapes
init_args: {resolution: 16, train_size: 160, test_size: 80}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a conditional run, its data's config, and pictures of those data: reals/ and copies.npz."""
    folder = tmp_path_factory.mktemp("place")
    config = folder / "small.yaml"
    text = CONFIG.format(root=folder / "runs", cache=folder / "cache")
    config.write_text(text.replace("train_size: 50, test_size: 20", "train_size: 160, test_size: 80"))
    arguments = ["--model.conditional", "true", "--budget.kimg", "0.04", "--diagnosis.every_kimg", "0.02",
                 "--diagnosis.num_samples", "20", "--quality.every_kimg", "0.02"]  # fmt: skip
    assert main(["fit", "--config", str(config), *arguments]) == 0
    (folder / "data.yaml").write_text(DATA)
    train, test = reals("train", 160), reals("test", 80)
    (folder / "reals").mkdir()
    for number, picture in enumerate(test):
        save_png(picture, folder / "reals" / f"{number:03d}.png")
    rows = np.random.RandomState(0).permutation(160)[:100]
    np.savez(folder / "copies.npz", samples=train[rows].permute(0, 2, 3, 1).numpy())
    return folder


@pytest.fixture
def cached(place: Path) -> list[str]:
    return [*QUICK, "--cache_dir", str(place / "cache")]


def reals(split: Any, count: int) -> torch.Tensor:  # noqa: ANN401 - the data module's literal type
    data = Shapes(resolution=16, train_size=160, test_size=80)
    return to_uint8(data.examples(split, range(count))[0])


def run_of(place: Path) -> Path:
    (folder,) = (place / "runs" / "small").iterdir()
    return folder


def printed(capsys: pytest.CaptureFixture[str]) -> Any:  # noqa: ANN401 - JSON
    return json.loads(capsys.readouterr().out)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    extractor = EfficientNetFeatures(resolution=32)
    sides = [GaussianStatistics.empty(1280) for _ in range(2)]
    for side, pictures in zip(sides, (a, b), strict=True):
        side.update(extractor(pictures))
    return frechet_distance(*sides)


def test_a_checkpoint_is_measured_against_its_own_data(
    place: Path, cached: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--ckpt_path", str(run_of(place)), "--num_samples", "64", "--json", *cached]) == 0
    result = printed(capsys)
    figures = result["figures"]
    expected = {"fd_effnet", "is_effnet", "precision", "recall", "density", "coverage", "class_accuracy",
                "modes_covered", "modes_kl", "modes_unrecognised"}  # fmt: skip
    assert set(figures) | {"modes_kl"} == expected  # which a model of five steps may not have
    protocol = figures["fd_effnet"]["protocol"]
    assert protocol["device"] == "cpu"
    assert protocol["num_samples"] == 64
    assert (protocol["reference"], protocol["reference_samples"]) == ("train", 160)
    assert protocol["sampler"]["weights"] == "ema"
    assert protocol["samples_seen"] == 40
    accuracy = figures["class_accuracy"]["protocol"]
    assert len(accuracy["by_class"]) == 16
    assert 0 <= accuracy["classifier_accuracy"] <= 1
    (kept,) = (run_of(place) / "evaluations").glob("*.json")
    assert json.loads(kept.read_text())["figures"] == figures


def test_the_table_has_figures_and_protocol(place: Path, cached: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--num_samples", "32", "--metrics", "frechet", "class_accuracy", *cached]
    assert main(["evaluate", "--ckpt_path", str(run_of(place)), *arguments]) == 0
    out = capsys.readouterr().out
    assert "fd_effnet" in out
    assert "lower is better" in out
    assert "class 15" in out
    assert "weights_sha256" in out
    assert "the distance is biased" in out  # 32 samples for 1,280 features


@pytest.mark.parametrize("kind", ["folder", "data config"])
def test_finished_samples_are_measured_against_any_reference(
    place: Path, cached: list[str], capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    reference = place / ("reals" if kind == "folder" else "data.yaml")
    arguments = ["--samples", str(place / "copies.npz"), "--reference", str(reference), "--split", "test", "--json"]
    assert main(["evaluate", *arguments, *cached]) == 0
    figures = printed(capsys)["figures"]
    with np.load(place / "copies.npz") as arrays:
        copies = torch.from_numpy(arrays["samples"]).permute(0, 3, 1, 2)
    assert figures["fd_effnet"]["value"] == pytest.approx(distance(copies, reals("test", 80)), rel=1e-3)
    assert ("modes_covered" in figures) == (kind == "data config")


def test_statistics_are_written_and_read_as_others_publish_them(
    place: Path, cached: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ours, theirs = tmp_path / "ours.npz", tmp_path / "theirs.npz"
    assert main(["evaluate", "--samples", str(place / "reals"), "--save_statistics", str(ours), *cached]) == 0
    with np.load(ours) as arrays:
        np.savez(theirs, mu=arrays["mu"], sigma=arrays["sigma"])
    direct = ["--reference", str(place / "reals")]
    values = []
    for reference in (direct, ["--reference", str(ours)], ["--reference", str(theirs)]):
        capsys.readouterr()
        arguments = ["--samples", str(place / "copies.npz"), *reference, "--json", "--metrics", "frechet"]
        assert main(["evaluate", *arguments, *cached]) == 0
        figure = printed(capsys)["figures"]["fd_effnet"]
        values.append(figure["value"])
    assert values[1] == pytest.approx(values[0], rel=1e-9)
    assert values[2] == pytest.approx(values[0], rel=1e-9)
    assert figure["protocol"]["reference_samples"] is None  # nobody said of how many pictures
    assert main(["evaluate", *arguments, "--resolution", "48", "--cache_dir", str(tmp_path)]) == 0  # taken at its word
    other = ["--samples", str(place / "copies.npz"), "--reference", str(ours), "--resolution", "48"]
    assert main(["evaluate", *other]) == 2
    assert f"{ours}: was computed with resolution 32" in capsys.readouterr().err


def test_what_does_not_fit_gets_one_line_and_no_figure(
    place: Path, cached: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    copies = ["--samples", str(place / "copies.npz")]
    checkpoint = ["--ckpt_path", str(run_of(place))]
    larger = tmp_path / "larger"
    larger.mkdir()
    for number in range(4):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(larger / f"{number}.png")
    lone = tmp_path / "lone.ckpt"
    lone.write_bytes((run_of(place) / "checkpoints" / "last.ckpt").read_bytes())
    (tmp_path / "damaged.npz").write_bytes(b"PK\x03\x04 no")
    (tmp_path / "model.yaml").write_text("model: {class_path: models.dcgan.DCGAN}")
    (tmp_path / "callback.yaml").write_text("class_path: callbacks.quality.Quality")
    (tmp_path / "wrong.yaml").write_text("class_path: datamodules.shapes.Shapes\ninit_args: {resolutoin: 16}")
    data = ["--reference", str(place / "data.yaml")]
    for arguments, says in [
        ([*copies, "--reference", str(larger)], "the samples are 16x16 and the pictures of .*larger 32x32"),
        (
            [*copies, *data, "--metrics", "kernel"],
            "kernel: draws subsets of 1000, but there are 160 real pictures and 100",
        ),
        ([*copies, *data, "--metrics", "class_accuracy"], "samples of no classes, real pictures of 16"),
        ([*copies, *data, "--num_samples", "101"], "--num_samples 101: .* has 100"),
        ([*copies, *data, "--num_samples", "1"], "--num_samples must be at least 2"),
        ([*copies, *data, "--extractor", "resnet"], "unknown extractor 'resnet': expected effnet, inception"),
        (copies, "--samples needs --reference"),
        (["--ckpt_path", str(lone)], "is not in a run's folder: .* --reference"),
        ([*checkpoint, "--reference", str(tmp_path / "damaged.npz")], "damaged.npz: not an npz"),
        ([*checkpoint, "--reference", str(tmp_path / "nowhere")], "nowhere: no such folder"),
        ([*checkpoint, "--reference", str(tmp_path / "model.yaml")], "model.yaml names no dataset"),
        ([*checkpoint, "--reference", str(tmp_path / "callback.yaml")], "is not a data module"),
        ([*checkpoint, "--reference", str(tmp_path / "wrong.yaml")], "unexpected keyword argument 'resolutoin'"),
    ]:
        assert main(["evaluate", *arguments, *cached]) == 2, says
        captured = capsys.readouterr()
        assert captured.out == ""
        (line,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
        assert re.search(says, line), line


def test_a_model_that_diverged_gives_no_figure(
    place: Path, cached: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    content = torch.load(run_of(place) / "checkpoints" / "last.ckpt", weights_only=True)
    for value in content["state_dict"].values():
        if value.is_floating_point():
            value.fill_(float("nan"))
    torch.save(content, tmp_path / "nan.ckpt")
    arguments = ["--ckpt_path", str(tmp_path / "nan.ckpt"), "--reference", str(place / "data.yaml")]
    assert main(["evaluate", *arguments, "--num_samples", "32", *cached]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hold NaN; the model that made them has diverged" in captured.err


def test_a_corrupt_cache_is_repaired_with_one_line(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ["evaluate", "--samples", str(place / "copies.npz"), "--reference", str(place / "reals"), "--json",
                 "--metrics", "frechet", "precision_recall", *QUICK, "--cache_dir", str(tmp_path)]  # fmt: skip
    assert main(arguments) == 0
    first = printed(capsys)["figures"]
    (rows,) = tmp_path.glob("*/rows.npy")
    content = bytearray(rows.read_bytes())
    content[-1] ^= 64
    rows.write_bytes(content)
    assert main(arguments) == 0
    assert printed(capsys)["figures"] == first
    assert [record.name for record in caplog.records if record.name.startswith("metrics.")] == ["metrics.cache"]
    caplog.clear()
    assert main(arguments) == 0
    assert not [record for record in caplog.records if record.name.startswith("metrics.")]


# diagnose


def findings(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    return {finding["name"]: finding for finding in printed(capsys)["findings"]}


def test_a_checkpoint_is_diagnosed_in_words_and_in_a_picture(
    place: Path, cached: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    picture = tmp_path / "near.png"
    arguments = ["--ckpt_path", str(run_of(place)), "--num_samples", "40", "--out", str(picture), *cached]
    assert main(["diagnose", *arguments]) == 0
    out = capsys.readouterr().out
    for name in ("mode collapse", "memorisation", "discriminator overfitting", "instability", "uneven classes"):
        assert name in out
    assert "AUROC" in out  # these data keep pictures from training
    assert "what usually helps" in out  # five steps make no good model
    assert str(picture) in out
    assert Image.open(picture).size == (5 * 18 + 2, 8 * 18 + 2)
    assert main(["compare", str(run_of(place))]) == 0
    compared = capsys.readouterr().out
    assert "1 of 1 runs were diagnosed" in compared
    (kept,) = (run_of(place) / "diagnosis").glob("*.json")
    assert json.loads(kept.read_text())["num_samples"] == 40
    for finding in json.loads(kept.read_text())["findings"]:
        assert (f"{finding['name']}: {finding['verdict']}" in compared) == (finding["verdict"] in ("suspect", "found"))


def test_ten_pictures_repeated_and_a_copied_training_set_are_named_for_what_they_are(
    place: Path, cached: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ten = reals("test", 80)[torch.arange(100) % 10].permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "ten.npz", samples=ten)
    shown = ["--data", str(place / "data.yaml"), "--out", str(tmp_path / "near.png"), "--json", *cached]
    assert main(["diagnose", "--samples", str(tmp_path / "ten.npz"), *shown]) == 0
    found = findings(capsys)
    assert found["mode collapse"]["verdict"] == "found"
    assert "show only 10 different pictures" in found["mode collapse"]["says"]
    assert found["memorisation"]["verdict"] == "fine"

    assert main(["diagnose", "--samples", str(place / "copies.npz"), *shown]) == 0
    found = findings(capsys)
    assert found["memorisation"]["verdict"] == "found"
    assert "100.0% are copies" in found["memorisation"]["says"]
    assert found["mode collapse"]["verdict"] == "fine"
    pixels = np.asarray(Image.open(tmp_path / "near.png"))
    assert np.array_equal(pixels[2:18, 2:18], pixels[2:18, 20:36])  # the sample, and the picture it was copied from


def test_a_fit_diagnoses_itself_when_asked(place: Path) -> None:
    record = json.loads((run_of(place) / "run.json").read_text())
    assert record["diagnosis"]["samples_seen"] == 40
    assert {finding["name"] for finding in record["diagnosis"]["findings"]} >= {"mode collapse", "memorisation"}
    assert len(list((run_of(place) / "diagnosis").glob("kimg*.png"))) == 2


def test_a_diagnosis_says_what_it_lacks(
    place: Path, cached: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    copies = ["--samples", str(place / "copies.npz"), "--out", str(tmp_path / "near.png")]
    for arguments, says in [
        (copies, "name the training data by --data"),
        ([*copies[:2], "--data", str(place / "data.yaml")], "--samples needs --out"),
        ([*copies, "--data", str(place / "data.yaml"), "--num_samples", "3"], "--num_samples must be at least 10"),
    ]:
        assert main(["diagnose", *arguments, *cached]) == 2
        assert says in capsys.readouterr().err

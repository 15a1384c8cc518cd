"""Bits per dimension and reconstructions, in a fit and afterwards, of a model whose likelihood is known by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.shapes import Shapes
from main import main
from models import load
from tests.commands.conftest import CONFIG, bytes_of, cells, record, rows

VALUES = 3 * 16 * 16


def config(folder: Path, **model: Any) -> Path:  # noqa: ANN401
    """The small run's config, of the histogram."""
    path = folder / "histogram.yaml"
    text = CONFIG.format(root=folder / "runs", cache=folder / "cache")
    before, _, after = text.partition("data:\n")
    arguments = json.dumps(model)
    named = "class_path: tests.callbacks.pixel_histogram.PixelHistogram"
    path.write_text(f"model:\n  {named}\n  init_args: {arguments}\ndata:\n{after}")
    assert before.startswith("\nmodel:")
    return path


def trained(folder: Path, *arguments: str, **model: Any) -> Path:  # noqa: ANN401
    """The folder of a finished run."""
    assert main(["fit", "--config", str(config(folder, **model)), *arguments]) == 0
    (run,) = (folder / "runs" / "histogram").iterdir()
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a histogram that makes pictures brighter by 10."""
    return trained(tmp_path_factory.mktemp("likelihood"), brighter=10)


def by_hand(run: Path, indices: list[int]) -> torch.Tensor:
    """Bits per dimension of these pictures of the test split, under the trained table."""
    table = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]["network.logits"]
    log_probs = table.double().log_softmax(1)
    pictures = Shapes(resolution=16, train_size=50, test_size=20).dataset("test")[torch.tensor(indices)][0]
    levels = pictures.permute(0, 3, 1, 2).flatten(1).long()
    each = log_probs.expand(len(levels), -1, -1).gather(2, levels[..., None]).sum((1, 2))
    return -each / (VALUES * np.log(2))


def test_a_fit_keeps_the_bits_of_the_held_out_pictures_with_their_protocol(run: Path) -> None:
    bits = by_hand(run, list(range(20)))
    figure = record(run)["figures"]["bits_per_dim"]
    assert figure["value"] == pytest.approx(float(bits.mean()), rel=1e-5)
    assert figure["spread"] == pytest.approx(float(bits.std() / 20**0.5), rel=1e-3)
    assert figure["value"] < 8
    protocol = figure["protocol"]
    assert (protocol["likelihood"], protocol["reference"], protocol["reference_samples"]) == ("exact", "test", 20)
    assert protocol["settings"] == {"weights": "ema", "precision": "float32", "draws": 1}
    measured = [row for row in rows(run) if "bits_per_dim" in row]
    assert [row["samples_seen"] for row in measured] == list(range(8, 81, 8))


def test_a_fit_that_ends_by_the_clock_measures_its_last_bits(tmp_path: Path) -> None:
    run = trained(tmp_path, "--budget.kimg=null", "--budget.hours=1e-6")
    (measured,) = [row for row in rows(run) if "bits_per_dim" in row]
    assert measured["bits_per_dim"] == pytest.approx(record(run)["figures"]["bits_per_dim"]["value"], rel=1e-6)
    assert {"likelihood", "metrics", "checkpoint"} <= record(run)["memory"]["peak_gib"].keys()


def test_an_untrained_table_needs_eight_bits() -> None:
    from tests.callbacks.pixel_histogram import PixelHistogram

    model = PixelHistogram((3, 4, 4))
    x = torch.rand(5, 3, 4, 4) * 2 - 1
    assert torch.allclose(model.log_prob(x), torch.full((5,), -48 * np.log(256), dtype=torch.float64))
    assert model.log_prob(x).dtype == torch.float64


def test_evaluate_measures_the_same_and_more_of_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", "--ckpt_path", str(run), "--metrics", "bits_per_dim", "--json"]
    assert main([*arguments, "--likelihood_samples", "7"]) == 0
    result = json.loads(capsys.readouterr().out)
    chosen = sorted(np.random.RandomState(0).permutation(20)[:7].tolist())
    assert result["figures"]["bits_per_dim"]["value"] == pytest.approx(float(by_hand(run, chosen).mean()), rel=1e-5)
    assert any(json.loads(path.read_text()) == result for path in (run / "evaluations").iterdir())


def test_evaluate_adds_them_to_the_other_figures(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", "--ckpt_path", str(run), "--num_samples", "12", "--resolution", "32"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "bits_per_dim" in out
    assert "fd_effnet" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--likelihood.steps", "5"], "likelihood: the likelihood of PixelHistogram has no steps"),
        (["--likelihood.num_samples", "0"], "likelihood.num_samples and likelihood.batch_size must be at least 1"),
    ],
)
def test_settings_that_mean_nothing_are_named_before_training(
    tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", str(config(tmp_path)), *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in error


def test_a_model_without_likelihood_is_named_only_where_it_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(CONFIG.format(root=tmp_path / "runs", cache=tmp_path / "cache"))
    assert main(["fit", "--config", str(path), "--likelihood.every_kimg", "1"]) == 2
    assert "likelihood.every_kimg: DCGAN has no likelihood" in capsys.readouterr().err


# Reconstructions.


def test_a_fit_leaves_pictures_with_their_reconstructions_below(run: Path) -> None:
    grids = sorted((run / "samples").glob("reconstructions_kimg*.png"))
    assert len(grids) == len(list((run / "samples").glob("kimg*.png")))
    (originals, made) = cells(grids[-1], 2, 2)
    assert np.array_equal(made, np.minimum(originals + 10, 255))


def test_reconstruct_draws_pairs_and_says_how_far_off_they_are(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pairs.png"
    assert main(["reconstruct", "--ckpt_path", str(run), "--out", str(out), "--rows", "2", "--columns", "3"]) == 0
    assert "root mean squared error 10 of 255, 6 pictures (test)" in capsys.readouterr().out
    drawn = cells(out, 4, 3)
    assert np.array_equal(drawn[1::2], drawn[::2] + 10)
    assert json.loads((tmp_path / "pairs.png.json").read_text())["split"] == "test"


def test_interpolate_walks_between_pictures(run: Path, tmp_path: Path) -> None:
    out, data = tmp_path / "walk.png", run / "config.yaml"
    arguments = ["--pictures", str(data), "--rows", "1", "--indices", "3", "5", "--steps", "2"]
    assert main(["latents", "walk", "--ckpt_path", str(run), "--out", str(out), *arguments]) == 0
    (walk,) = cells(out, 1, 3)
    pictures = Shapes(resolution=16, train_size=50, test_size=20).dataset("test")[torch.tensor([3, 5])][0].numpy()
    assert np.abs(walk[[0, -1]] - np.minimum(pictures.astype(int) + 10, 255)).max() <= 1


def test_a_model_without_samples_is_judged_by_its_reconstructions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path, "--budget.kimg", "0.04", samples=False)
    figure = record(run)["figures"]["reconstruction_fd_effnet"]
    assert figure["protocol"]["samples"] == "reconstructions of the test split"
    assert figure["protocol"]["num_samples"] == 16
    assert "fd_effnet" not in record(run)["figures"]
    assert list((run / "samples").glob("kimg*.png")) == []
    assert load(run / "checkpoints" / "last.ckpt").why_no_samples is not None
    assert main(["sample", "--ckpt_path", str(run), "--out", str(tmp_path / "x.png")]) == 2
    assert "may not sample: set samples" in capsys.readouterr().err
    again = ["fit", "--config", str(tmp_path / "histogram.yaml"), "--diagnosis.every_kimg", "1"]
    assert main(again) == 2
    assert "diagnosis.every_kimg: this histogram may not sample" in capsys.readouterr().err
    assert bytes_of(next((run / "samples").glob("reconstructions_*.png"))).shape[2] == 3


def test_a_diagnosis_of_a_model_without_a_discriminator_does_not_speak_of_one(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["diagnose", "--ckpt_path", str(run), "--num_samples", "20", "--cache_dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "what usually helps" in out  # a histogram of each pixel is no model of pictures
    assert "discriminator" not in out

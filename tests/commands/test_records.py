"""What a metric adds, in one file: figures that run, checkpoints, evaluations and comparison know the direction of."""

import json
import shutil
from pathlib import Path

import pytest

import metrics.evaluation
from features.extractors import Extractor
from main import main
from metrics.metric import Metric
from metrics.real_statistics import RealStatistics
from metrics.sample_statistics import SampleStatistics
from records.figures import Direction, Figure
from tests.commands.conftest import Run, only_run, record
from tests.commands.golden import golden
from tests.commands.test_compare import compared, table

EARLIER = Path(__file__).parent / "run_of_version_0_1"
"""What `fit`, `evaluate` and `diagnose` of an earlier commit, 979ebb7, left of a tiny DCGAN, without checkpoints."""


class FeatureSpread(Metric):
    """The mean variance of the features; a metric of a user's own."""

    name = "feature_spread"
    needs = frozenset({"gaussian"})

    def directions(self, extractor: Extractor) -> dict[str, Direction]:
        return {"feature_spread": "higher"}

    def figures(self, real: RealStatistics, fake: SampleStatistics) -> dict[str, Figure]:
        ((name, better),) = self.directions(fake.extractor).items()
        spread = float(fake.gaussian.covariance().diagonal().mean())
        return {name: Figure(spread, better, None, {"of_real": float(real.gaussian.covariance().diagonal().mean())})}


def test_a_metric_is_added_in_one_file(
    fit: Run, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(metrics.evaluation, "METRICS", (*metrics.evaluation.METRICS, FeatureSpread()))
    assert fit("--quality.metrics", "[feature_spread]") == 0
    folder = only_run(config)
    kept = record(folder)["figures"]["feature_spread"]
    assert kept["better"] == "higher"
    values = [row["feature_spread"] for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
              if "feature_spread" in row]  # fmt: skip
    assert kept["best"]["value"] == pytest.approx(max(values), rel=1e-6)
    best = folder / "checkpoints" / f"kimg{kept['best']['samples_seen'] / 1000:010.3f}.ckpt"
    assert best.samefile(folder / "checkpoints" / "best.ckpt")  # the direction that checkpoints go by

    words = ["--num_samples", "16", "--resolution", "32", "--cache_dir", str(config.parent / "cache")]
    capsys.readouterr()
    assert main(["evaluate", "--ckpt_path", str(folder), *words, "--metrics", "feature_spread"]) == 0
    assert "higher is better" in capsys.readouterr().out
    smaller = folder.with_name("smaller")
    shutil.copytree(folder, smaller)
    shutil.rmtree(smaller / "evaluations")
    changed = json.loads((smaller / "run.json").read_text())
    changed["figures"]["feature_spread"]["value"] = 0.0
    (smaller / "run.json").write_text(json.dumps(changed))
    rows = table(compared(capsys, folder, smaller), "Quality")
    # The evaluation's figure replaces the fit's, of the same protocol.
    assert [row["feature_spread"].startswith("**") for row in rows] == [True, False]


def test_figures_of_a_fit_and_of_an_evaluation_stand_in_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    """With one default number of samples; here, as a test has little time, with one that is named."""
    folder = golden()
    cache = ["--cache_dir", str(folder.parents[1] / "cache")]
    words = ["--num_samples", "16", "--resolution", "32", "--metrics", "frechet", "recall_that_is_unknown"]
    assert main(["evaluate", "--ckpt_path", str(folder), *cache, *words]) == 2
    assert "there are frechet, kernel, inception_score" in capsys.readouterr().err
    copy = folder.with_name("evaluated")
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    assert main(["evaluate", "--ckpt_path", str(copy), *cache, *words[:-1]]) == 0
    text = compared(capsys, copy)
    assert len(table(text, "Quality")) == 1
    assert "Quality 2" not in text
    shutil.rmtree(copy)


def test_runs_of_an_earlier_version_are_compared_with_those_of_today(capsys: pytest.CaptureFixture[str]) -> None:
    text = compared(capsys, EARLIER, golden())
    names = [(row["run"], row["status"], row["model"]) for row in table(text, "Runs")]
    assert [name[1:] for name in names] == [("done", "DCGAN")] * 2
    earlier = json.loads((EARLIER / "run.json").read_text())
    quality = table(text, "Quality")
    assert quality[0]["fd_effnet"].strip("*") == f"{earlier['figures']['fd_effnet']['value']:.4g}"
    assert len(quality) == 2  # one protocol: the data, too, are the same
    assert table(text, "Peak memory")[0]["D step"] == f"{earlier['memory']['peak_gib']['D step']:.4g}"
    assert "mode collapse: found" in [row["what"] for row in table(text, "What went wrong")]

"""`fit` from end to end on the small run: what it leaves behind, how it stops, how it goes on."""

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from datamodules.shapes import Shapes
from main import main
from models import load
from models.training.gan import GAN
from tests.commands.conftest import Run, assert_same_state, checkpoint, only_run, record, rows

AfterEachStep = Callable[[Callable[[GAN], None]], None]


def test_a_fit_leaves_a_whole_run(fit: Run, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit() == 0
    folder = only_run(config)
    run = record(folder)
    assert (run["schema"], run["status"], run["samples_seen"]) == (1, "done", 80)
    assert run["data"]["train_size"] == 50
    assert sorted(run["parameters"]) == ["discriminator", "generator"]
    assert run["hardware"]["device"] == "cpu"
    assert run["figures"]["fd_effnet"]["protocol"]["num_samples"] == 16
    assert {"D step", "G step", "sampling"} <= set(run["memory"]["peak_gib"])
    assert run["memory"]["kept_bytes"]["optimizer state"] > 0
    assert yaml.safe_load((folder / "config.yaml").read_text())["budget"]["kimg"] == 0.08
    assert sorted(p.name for p in (folder / "samples").glob("*.png")) == [
        f"kimg000000.{thousandth:03d}.png" for thousandth in range(0, 81, 8)
    ]
    assert Image.open(folder / "samples" / "kimg000000.080.png").size == (2 * 18 + 2, 2 * 18 + 2)
    assert [row["samples_seen"] for row in rows(folder) if "fd_effnet" in row] == [40, 80]
    assert all(math.isfinite(value) for row in rows(folder) for value in row.values())
    err = capsys.readouterr().err
    for line in ("parameters", "peak memory", "time", "checkpoints", "run folder"):
        assert line in err
    assert err.index("parameters") < err.index("kimg [")  # the plan comes before the first batch


def test_resuming_equals_never_having_stopped_bit_for_bit(fit: Run, config: Path, tmp_path: Path) -> None:
    assert fit("--run.name", "whole") == 0
    assert fit("--run.name", "parts", "--budget.kimg", 0.032) == 0  # in the middle of the first epoch of 50
    assert fit("--run.name", "parts", "--budget.kimg", 0.064, "--ckpt_path", "last") == 0
    assert fit("--run.name", "parts", "--ckpt_path", "last") == 0
    (whole,), (parts,) = ((tmp_path / "runs" / name).iterdir() for name in ("whole", "parts"))
    assert_same_state(checkpoint(whole), checkpoint(parts))
    figures = [[row["fd_effnet"] for row in rows(folder) if row.get("samples_seen") == 80 and "fd_effnet" in row]
               for folder in (whole, parts)]  # fmt: skip
    assert figures[0] == figures[1]
    assert len(figures[1]) == 1


def test_resuming_drops_rows_of_a_future_that_is_lived_again(fit: Run, config: Path) -> None:
    assert fit("--budget.kimg", 0.04, "--checkpoints.keep", 5) == 0
    folder = only_run(config)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"samples_seen": 48, "seconds": 1, "d_loss": 99.0}) + "\n")
        file.write('{"samples_seen": 56, "sec')  # a kill cut this line short
    assert fit("--ckpt_path", "last") == 0
    assert 99.0 not in [row.get("d_loss") for row in rows(folder)]
    seen = [row["samples_seen"] for row in rows(folder)]
    assert seen == sorted(seen)


def test_what_watches_a_fit_leaves_no_trace_in_its_weights(fit: Run, tmp_path: Path) -> None:
    assert fit("--run.name", "watched") == 0
    unwatched = ["--quality.every_kimg", 10, "--samples.every_kimg", 10, "--memory.batches", 0]
    assert fit("--run.name", "unwatched", *unwatched) == 0
    (watched,), (bare,) = ((tmp_path / "runs" / name).iterdir() for name in ("watched", "unwatched"))
    assert_same_state(checkpoint(watched), checkpoint(bare))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_batch_saves_and_says_so(
    fit: Run,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    code: int,
    after_each_step: AfterEachStep,
) -> None:
    def interrupt(self: GAN) -> None:
        if self.samples_seen == 24 and self.trainer.global_step == 3:  # a trial step has counted none
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    after_each_step(interrupt)
    assert fit() == code
    folder = only_run(config)
    assert (record(folder)["status"], record(folder)["samples_seen"]) == ("stopped", 24)
    assert checkpoint(folder)["atelier"]["samples_seen"] == 24
    assert signal.getsignal(number) is before
    monkeypatch.undo()
    assert fit("--ckpt_path", "last") == 0
    assert record(folder)["status"] == "done"


def test_ctrl_c_before_the_first_batch_is_no_crash(fit: Run, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Shapes, stage: str | None = None) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Shapes, "setup", interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts without one
    try:
        assert fit() == 130
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_sigterm_before_the_first_batch_ends_the_fit_there(
    fit: Run,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    after_each_step: AfterEachStep,
) -> None:
    def terminate(self: GAN) -> None:
        if self.trainer.global_step == 0:  # a trial step of the plan
            os.kill(os.getpid(), signal.SIGTERM)
            monkeypatch.undo()

    after_each_step(terminate)
    assert fit() == 143
    assert record(only_run(config))["samples_seen"] == 0
    assert fit("--ckpt_path", "last") == 0


def test_two_runs_do_not_collide(fit: Run, tmp_path: Path) -> None:
    assert fit("--budget.kimg", 0.008) == 0
    assert fit("--budget.kimg", 0.008) == 0
    assert len(list((tmp_path / "runs" / "small").iterdir())) == 2


def test_a_changed_hyperparameter_is_refused_with_a_list(fit: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("--budget.kimg", 0.008) == 0
    code = fit("--ckpt_path", "last", "--model.adversarial.lr", 0.5, "--model.latent_dim", 4, "--seed_everything", 3)
    err = capsys.readouterr().err
    assert code == 2
    assert "model.adversarial.lr: 0.0002 -> 0.5" in err
    assert "model.latent_dim: 8 -> 4" in err
    assert "seed_everything: 0 -> 3" in err


@pytest.mark.parametrize("content", ["{", '{"schema": 99}', '{"schema": 1, "figures": {"fid": 3}}'])
def test_a_record_that_cannot_be_read_is_kept_beside_the_new_one(
    fit: Run, config: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    assert fit("--budget.kimg", 0.04) == 0
    folder = only_run(config)
    (folder / "run.json").write_text(content)
    assert fit("--ckpt_path", "last") == 0
    assert (folder / "run.unreadable.json").read_text() == content
    assert record(folder)["status"] == "done"
    assert "kept as run.unreadable.json, a new record begins" in capsys.readouterr().err


def test_a_setting_changes_on_resume_where_that_is_said(
    fit: Run, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("--budget.kimg", 0.008) == 0
    resumed = ("--ckpt_path", "last", "--budget.kimg", 0.016)
    change = "model.adversarial.lr=0.5"
    assert fit(*resumed, "--resume_override", change, "--resume_override=model.adversarial.eps=0.25") == 0
    folder = only_run(config)
    lines = ["model.adversarial.lr: 0.0002 -> 0.5", "model.adversarial.eps: 1e-08 -> 0.25"]
    assert record(folder)["resume_overrides"] == [{"samples_seen": 8, "changed": lines}]
    content = checkpoint(folder)
    group = content["optimizer_states"][0]["param_groups"][0]
    assert (group["lr"], group["eps"]) == (0.5, 0.25)
    assert content["atelier"]["model"]["init_args"]["adversarial"]["init_args"]["lr"] == 0.5
    capsys.readouterr()
    assert fit(*resumed) == 2  # the checkpoint's setting is now the other
    err = capsys.readouterr().err
    assert "model.adversarial.lr: 0.5 -> 0.0002" in err
    assert "--resume_override key=value" in err
    for arguments, line in (
        ((*resumed, "--resume_override", "model.width=4", *kept()), "other shapes"),
        ((*resumed, "--resume_override", "data.train_size=4"), "setting of the model"),
        (("--resume_override", change), "applies to resumed runs, with --ckpt_path"),
    ):
        assert fit(*arguments) == 2
        assert line in capsys.readouterr().err


def kept() -> tuple[str, str, str, str]:
    """Flags for the settings of the run before."""
    return "--model.adversarial.lr", "0.5", "--model.adversarial.eps", "0.25"


def test_other_data_are_refused_with_a_list(fit: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("--budget.kimg", 0.008) == 0
    code = fit("--ckpt_path", "last", "--data.train_size", 40, "--data.num_workers", 1)
    err = capsys.readouterr().err
    assert code == 2
    assert "data.train_size: 50 -> 40" in err
    assert "num_workers" not in err  # how data are loaded may change
    assert fit("--ckpt_path", "last", "--data", '{"class_path": "datamodules.fashion_mnist.FashionMNIST", '
               '"init_args": {"excerpt": true, "resolution": 16, "batch_size": 8}}') == 2  # fmt: skip
    assert (
        "data.class_path: datamodules.shapes.Shapes -> datamodules.fashion_mnist.FashionMNIST"
        in capsys.readouterr().err
    )


def test_the_best_checkpoint_goes_by_the_figure_that_is_asked_for(fit: Run, config: Path) -> None:
    assert fit("--quality.metrics", '["precision_recall"]') == 0
    folder = only_run(config)
    recalls = {row["samples_seen"]: row["recall"] for row in rows(folder) if "recall" in row}
    assert sorted(recalls) == [40, 80]
    assert "fd_effnet" not in record(folder)["figures"]
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    # Higher is better, and an equal later one is no better.
    assert best["atelier"]["samples_seen"] == max([40, 80], key=lambda seen: (recalls[seen], -seen))
    # Resumed by another figure, the first of it is the best there is.
    assert fit("--ckpt_path", "last", "--budget.kimg", 0.12) == 0
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["atelier"]["samples_seen"] == 120


def test_another_batch_size_goes_on_with_the_same_order_of_data(fit: Run, config: Path) -> None:
    assert fit("--budget.kimg", 0.04) == 0
    assert fit("--ckpt_path", "last", "--data.batch_size", 10) == 0
    assert record(only_run(config))["samples_seen"] == 80


def test_a_budget_that_is_used_up_says_so(fit: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("--budget.kimg", 0.008) == 0
    assert fit("--budget.kimg", 0.008, "--ckpt_path", "last") == 2
    assert "raise --budget.kimg" in capsys.readouterr().err


def test_hours_end_a_fit_too(fit: Run, config: Path) -> None:
    assert fit("--budget.hours", 1e-6) == 0
    folder = only_run(config)
    assert record(folder)["samples_seen"] == 8
    assert record(folder)["figures"]["fd_effnet"]["samples_seen"] == 8  # the end is measured, whatever brought it
    assert (folder / "checkpoints" / "best.ckpt").exists()


def test_losses_that_are_no_numbers_stop_the_fit_and_keep_the_last_good_checkpoint(
    fit: Run,
    config: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    after_each_step: AfterEachStep,
) -> None:
    def poison(self: GAN) -> None:
        if self.samples_seen == 64:
            with torch.no_grad():
                next(self.generator.parameters()).fill_(float("nan"))

    after_each_step(poison)
    assert fit("--checkpoints.every_kimg", 0.016) == 2
    folder = only_run(config)
    assert record(folder)["status"] == "failed"
    assert "diverged" in capsys.readouterr().err
    newest = checkpoint(folder)
    assert newest["atelier"]["samples_seen"] == 48
    assert all(value.isfinite().all() for value in newest["state_dict"].values())


def test_running_out_of_memory_names_the_phase_and_the_remedy(
    fit: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhaust(self: GAN, *arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(GAN, "generator_losses", exhaust)
    assert fit() == 2
    err = capsys.readouterr().err
    assert "out of memory in the G step" in err
    assert "--data.batch_size" in err


def test_a_full_disk_is_said_before_the_first_batch(
    fit: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("callbacks.plan.free_bytes", lambda folder: 1000)
    assert fit() == 2
    err = capsys.readouterr().err
    assert "--run.root" in err
    assert "kimg [" not in err


def test_a_run_folder_that_cannot_be_written_is_said_before_training(
    fit: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert fit("--run.root", tmp_path / "file") == 2
    assert "cannot write the run folder" in capsys.readouterr().err


def test_last_without_a_run_says_so(fit: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("--ckpt_path", "last") == 2
    assert "no run in" in capsys.readouterr().err


def test_checkpoints_of_another_format_are_named_by_it(
    fit: Run, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("--budget.kimg", 0.008) == 0
    folder = only_run(config)
    for path in (folder / "checkpoints").iterdir():
        content = torch.load(path, weights_only=True)
        content["atelier"]["format"] = 1
        torch.save(content, path)
    assert fit("--ckpt_path", "last") == 2
    assert main(["sample", "--ckpt_path", str(folder), "--out", str(folder / "x.png")]) == 2
    *_, resumed, sampled = capsys.readouterr().err.splitlines()
    for line in (resumed, sampled):
        assert line.startswith("error: ")
        assert line.endswith("it has format 1, this version reads 3")


def test_an_error_in_the_middle_of_training_is_a_crash_with_its_traceback(
    fit: Run,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    after_each_step: AfterEachStep,
) -> None:
    def fail(self: GAN) -> None:
        if self.trainer.global_step == 3:
            raise ValueError("a bug")

    after_each_step(fail)
    with pytest.raises(ValueError, match="a bug"):
        fit()
    assert record(only_run(config))["status"] == "failed"
    assert "a bug" in record(only_run(config))["error"]


def test_validate_test_and_predict_measure_a_checkpoint(
    fit: Run, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit() == 0
    for verb in ("validate", "test"):
        assert main([verb, "--config", str(config), "--ckpt_path", "last"]) == 0
        assert "fd_effnet" in capsys.readouterr().out
    assert main(["predict", "--config", str(config), "--ckpt_path", "last", "--quality.batch_size", "5"]) == 0
    folder = only_run(config)
    assert len(list((folder / "predictions").glob("*.png"))) == 16
    drawn = load(folder / "checkpoints" / "last.ckpt").sample([7])
    saved = torch.from_numpy(np.array(Image.open(folder / "predictions" / "000007.png"))).permute(2, 0, 1)
    assert (((drawn[0] + 1) * 127.5).round() - saved).abs().max() <= 1  # pixels within rounding


def test_a_saved_config_starts_the_same_run_again(fit: Run, config: Path, tmp_path: Path) -> None:
    assert fit("--budget.kimg", 0.016) == 0
    folder = only_run(config)
    assert main(["fit", "--config", str(folder / "config.yaml"), "--run.name", "again"]) == 0
    (again,) = (tmp_path / "runs" / "again").iterdir()
    assert_same_state(checkpoint(folder), checkpoint(again))


def test_the_best_few_are_kept_and_the_others_go(fit: Run, config: Path) -> None:
    arguments = ["--quality.every_kimg", "0.016", "--checkpoints.save_top_k", "2", "--checkpoints.keep", "1"]
    assert fit(*arguments, "--budget.kimg", "0.064") == 0
    folder = only_run(config)

    def figures_by_samples() -> dict[int, float]:
        return {row["samples_seen"]: row["fd_effnet"] for row in rows(folder) if "fd_effnet" in row}

    def kept() -> list[int]:
        return [round(float(p.stem[4:]) * 1000) for p in sorted((folder / "checkpoints").glob("kimg*.ckpt"))]

    figures = figures_by_samples()
    assert sorted(figures) == [16, 32, 48, 64]
    assert kept() == sorted({64, *sorted(figures, key=lambda seen: (figures[seen], seen))[:2]})
    # Resumed, those of before the stop are still compared with.
    assert fit(*arguments, "--budget.kimg", "0.096", "--ckpt_path", "last") == 0
    figures = figures_by_samples()
    best = sorted(figures, key=lambda seen: (figures[seen], seen))[:2]
    assert kept() == sorted({96, *best})
    assert checkpoint(folder, "best.ckpt")["atelier"]["samples_seen"] == best[0]


def test_no_checkpoint_is_kept_for_its_figure_where_none_is_wanted(fit: Run, config: Path) -> None:
    assert fit("--checkpoints.save_top_k", "0", "--checkpoints.keep", "1") == 0
    assert sorted(p.name for p in (only_run(config) / "checkpoints").iterdir()) == ["kimg000000.080.ckpt", "last.ckpt"]

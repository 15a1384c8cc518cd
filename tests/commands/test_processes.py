"""What only whole processes can show: two ranks, signals to a process group, and `kill -9`."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from main import main
from tests.commands.conftest import Run, checkpoint, only_run, record, rows

REPOSITORY = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(config: Path, *arguments: object) -> list[str]:
    return [sys.executable, "main.py", "fit", "--config", str(config), *map(str, arguments)]


def test_two_processes_train_the_weights_of_one_on_the_joint_batch(fit: Run, config: Path, tmp_path: Path) -> None:
    """Plain `ddp`, batch norm and all; 1e-6 because two halves of a sum are added in another order than one whole."""
    measured = ("--quality.metrics", '["frechet", "precision_recall", "modes"]')
    assert fit("--run.name", "one", *measured) == 0
    two = command(config, "--run.name", "two", "--trainer.strategy", "ddp", "--trainer.devices", 2, *measured)
    done = subprocess.run(two, cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (one_folder,), (two_folder,) = ((tmp_path / "runs" / name).iterdir() for name in ("one", "two"))
    one, two_ranks = checkpoint(one_folder), checkpoint(two_folder)
    assert one["atelier"]["samples_seen"] == two_ranks["atelier"]["samples_seen"] == 80
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(value, two_ranks["state_dict"][name], rtol=0, atol=1e-6, msg=name)
    figures = [[row["fd_effnet"] for row in rows(folder) if "fd_effnet" in row] for folder in (one_folder, two_folder)]
    assert figures[1] == pytest.approx(figures[0], rel=1e-3)  # a weight's last digit can move a pixel's rounding
    assert record(two_folder)["devices"] == 2
    for name in ("precision", "recall", "modes_covered"):  # one sample of 16 may cross a border by such a rounding
        found = [record(folder)["figures"][name]["value"] for folder in (one_folder, two_folder)]
        assert found[1] == pytest.approx(found[0], abs=1 / 16 + 1e-9)


def test_ctrl_c_in_a_terminal_leaves_a_whole_run_and_exit_code_130(config: Path) -> None:
    """The signal goes to the whole process group, as a terminal sends it: to data workers and wandb's helper too."""
    process = subprocess.Popen(
        command(config, "--budget.kimg", 1000, "--data.num_workers", 1, "--run.wandb", "offline",
                "--quality.every_kimg", 5000, "--samples.every_kimg", 5000),
        cwd=REPOSITORY, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        _wait_for_rows(config, 1, process)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, err[-3000:]
    assert "Traceback" not in err
    folder = only_run(config)
    assert record(folder)["status"] == "stopped"
    assert checkpoint(folder)["atelier"]["samples_seen"] == record(folder)["samples_seen"] > 0
    (log,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    assert log.stat().st_size > 0


def _wait_for_rows(config: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        files = list((config.parent / "runs").glob("*/*/metrics.jsonl"))
        if files and len(files[0].read_text().splitlines()) >= count:
            return
        time.sleep(0.05)
    raise AssertionError(f"no rows: {process.poll()}")


@pytest.mark.slow
def test_a_run_killed_at_twenty_random_moments_always_resumes(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`kill -9` anywhere after a first checkpoint, in the middle of a write too: one is written at every batch."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["commands.training", "datamodules.shapes", "models.dcgan"])
    # The children import `main`, not this file: others' packages may bring a module `tests` of their own.
    arguments = ["fit", "--config", str(config), "--budget.kimg", "1000", "--checkpoints.every_kimg", "0.008",
                 "--quality.every_kimg", "5000", "--samples.every_kimg", "5000"]  # fmt: skip
    draw = random.Random(0)
    seen = 0
    for attempt in range(20):
        resume = ["--ckpt_path", "last"] if attempt else []
        child = forks.Process(target=main, args=([*arguments, *resume],))
        child.start()
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and child.is_alive() and _newest(config) <= seen:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 1))
        assert child.pid is not None
        assert child.is_alive(), f"attempt {attempt} ended by itself with {child.exitcode}"
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert _newest(config) > seen, f"attempt {attempt} went no further than {seen}"
        seen = _newest(config)
    folder = only_run(config)
    assert record(folder)["status"] == "running"
    assert main(["fit", "--config", str(config), "--ckpt_path", "last", "--budget.kimg", str(seen / 1000 + 0.5)]) == 0
    assert record(folder)["status"] == "done"
    values = [row["samples_seen"] for row in rows(folder)]
    assert values == sorted(values)


def _newest(config: Path) -> int:
    """Thousandths of a kimg in the newest checkpoint's name."""
    names = [path.stem for path in (config.parent / "runs").glob("*/*/checkpoints/kimg*.ckpt")]
    return max([round(1000 * float(name.removeprefix("kimg"))) for name in names], default=0)

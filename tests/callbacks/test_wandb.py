"""Runs in W&B: what arrives at a server, what the log of an offline run holds, and servers that fail."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from PIL import Image

from callbacks.wandb_run import FIGURE_COLUMNS
from main import main
from models.training.gan import GAN
from tests import wandb_log
from tests.commands.conftest import CONFIG, assert_same_state, checkpoint, record, rows
from tests.wandb_server import WandbServer

Fit = Callable[..., Path]


@pytest.fixture(scope="module")
def server() -> Iterator[WandbServer]:
    """One server for all tests, because wandb keeps its address."""
    server = WandbServer()
    server.start()
    wandb.teardown()
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            environment.delenv(name)
        environment.setenv("WANDB_BASE_URL", server.url)
        environment.setenv("WANDB_API_KEY", "0" * 40)
        environment.setenv("WANDB_ERROR_REPORTING", "false")
        yield server
        wandb.teardown()
    server.stop()


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory, server: WandbServer) -> Fit:
    """Runs the small config, in this process, and gives the run's folder."""
    folder = tmp_path_factory.mktemp("wandb")
    path = folder / "small.yaml"
    path.write_text(CONFIG.format(root=folder / "runs", cache=folder / "cache"))

    def run(name: str, *arguments: object) -> Path:
        words = ["fit", "--config", str(path), "--run.name", name, "--quality.every_kimg", "0.04", *map(str, arguments)]
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("WANDB_DATA_DIR", str(folder))  # copies of artifacts, until they are sent
            environment.setenv("WANDB_CACHE_DIR", str(folder))
            assert main(words) == 0
        (found,) = (folder / "runs" / name).iterdir()
        return found

    return run


@pytest.fixture(scope="module")
def unwatched(fit: Fit) -> Path:
    return fit("unwatched")


@pytest.fixture(scope="module")
def online(fit: Fit) -> Path:
    """Online in two parts."""
    words = ("--run.wandb", "online", "--run.artifacts", "all")
    fit("online", *words, "--budget.kimg", 0.048)
    return fit("online", *words, "--ckpt_path", "last")


def test_a_run_arrives_on_one_axis(online: Path, server: WandbServer) -> None:
    run = server.runs[record(online)["wandb_id"]]
    kept = [{key: value for key, value in row.items() if key != "seconds"} for row in rows(online)]
    sent = [{key: value for key, value in row.items() if not key.startswith("_")} for row in run.history]
    scalars = [row for row in sent if not {"samples", "figures"} & set(row)]
    assert len(scalars) == len(kept)
    assert all(row == pytest.approx(expected, rel=1e-6) for row, expected in zip(scalars, kept, strict=True))
    assert all("samples_seen" in row for row in sent)
    # Fields of wandb's MetricRecord by number: 1 the name, 2 a pattern of names, 5 the place of their axis, from 1.
    metrics = run.config["_wandb"]["value"]["m"]
    (axis,) = [place for place, metric in enumerate(metrics, 1) if metric.get("1") == "samples_seen"]
    assert [metric["5"] for metric in metrics if metric.get("2") == "*"] == [axis]
    assert run.summary["samples_seen"] == 80
    assert run.summary["fd_effnet"] == pytest.approx(record(online)["figures"]["fd_effnet"]["value"], rel=1e-6)
    assert {"samples_per_s", "memory/D_step_peak_gib"} <= set(run.summary)
    assert (run.project, run.complete, run.exit_code) == ("atelier", True, 0)


def test_resuming_goes_on_in_the_same_run(online: Path, server: WandbServer) -> None:
    ours = [run for run in server.runs.values() if run.display_name == f"online/{online.name}"]
    assert [run.name for run in ours] == [record(online)["wandb_id"]]
    steps = [row["_step"] for row in ours[0].history]
    assert steps == list(range(len(steps)))
    seen = [row["samples_seen"] for row in ours[0].history]
    assert seen == sorted(seen)
    assert seen[0] == 0
    assert len(list((online / "wandb").glob("run-*"))) == 2


def test_the_configuration_and_the_commit_arrive(online: Path, server: WandbServer) -> None:
    run = server.runs[record(online)["wandb_id"]]
    config = run.config["config"]["value"]
    assert config["model"]["init_args"]["width"] == 8
    assert config["data"]["class_path"] == "datamodules.shapes.Shapes"
    assert run.config["commit"]["value"] == record(online)["commit"]
    assert run.commit == (record(online)["commit"] or "").removesuffix("+")


def test_sample_grids_arrive_pixel_by_pixel(online: Path, server: WandbServer) -> None:
    run = server.runs[record(online)["wandb_id"]]
    logged = {row["samples_seen"]: row["samples"]["path"] for row in run.history if "samples" in row}
    assert sorted(logged) == list(range(0, 81, 8))
    for seen, path in logged.items():
        kept = np.array(Image.open(online / "samples" / f"kimg{seen / 1000:010.3f}.png"))
        received = online / "received.png"
        received.write_bytes(run.files[path])
        assert kept.max() > 0
        assert np.array_equal(np.array(Image.open(received)), kept)


def test_figures_arrive_as_a_table_with_their_protocols(online: Path, server: WandbServer) -> None:
    run = server.runs[record(online)["wandb_id"]]
    path = next(row["figures"]["path"] for row in reversed(run.history) if "figures" in row)
    table = json.loads(run.files[path])
    assert table["columns"] == FIGURE_COLUMNS
    (row,) = [dict(zip(FIGURE_COLUMNS, row, strict=True)) for row in table["data"]]
    kept = record(online)["figures"]["fd_effnet"]
    assert (row["figure"], row["value"], row["samples_seen"]) == ("fd_effnet", kept["value"], 80)
    assert row["best"] == kept["best"]["value"]
    assert json.loads(row["protocol"]) == kept["protocol"]


def test_checkpoints_arrive_by_choice(fit: Fit, online: Path, server: WandbServer) -> None:
    name = f"checkpoint-{record(online)['wandb_id']}"
    sent = [artifact for artifact in server.artifacts.values() if artifact.name == name]
    assert all(artifact.committed and artifact.type == "model" for artifact in sent)
    assert all("last" in artifact.aliases for artifact in sent)
    assert sent[-1].files == {"model.ckpt": (online / "checkpoints" / "last.ckpt").read_bytes()}
    best = [artifact for artifact in sent if "best" in artifact.aliases][-1]
    assert best.files == {"model.ckpt": (online / "checkpoints" / "best.ckpt").read_bytes()}
    folder = fit("chosen", "--run.wandb", "online", "--run.artifacts", "best", "--budget.kimg", 0.048)
    name = f"checkpoint-{record(folder)['wandb_id']}"
    (only,) = [artifact for artifact in server.artifacts.values() if artifact.name == name]
    assert "best" in only.aliases
    assert only.metadata["checkpoint"].startswith("kimg")
    assert only.files == {"model.ckpt": (folder / "checkpoints" / "best.ckpt").read_bytes()}


def test_a_run_leaves_no_trace_in_the_weights(online: Path, unwatched: Path) -> None:
    assert_same_state(checkpoint(online), checkpoint(unwatched))


# Offline.


def sync(folder: Path) -> None:
    """`wandb sync` on all folders of W&B's in a run's folder."""
    paths = [str(path) for path in sorted((folder / "wandb").glob("*run-*"))]
    command = [sys.executable, "-m", "wandb", "sync", "--no-skip-online", *paths]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def sent_rows(server: WandbServer, folder: Path) -> list[dict[str, Any]]:
    """The scalars that arrived of a run, without W&B's own."""
    found = server.runs[record(folder)["wandb_id"]].history
    plain = [{key: value for key, value in row.items() if not key.startswith("_")} for row in found]
    return [row for row in plain if not {"samples", "figures"} & set(row)]


def assert_all_arrived(server: WandbServer, folder: Path) -> None:
    kept = [{key: value for key, value in row.items() if key != "seconds"} for row in rows(folder)]
    sent = sent_rows(server, folder)
    assert len(sent) == len(kept)
    assert all(row == pytest.approx(expected, rel=1e-6) for row, expected in zip(sent, kept, strict=True))


def test_an_offline_run_of_two_parts_is_whole_in_its_logs_and_after_sync(fit: Fit, server: WandbServer) -> None:
    asked = len(server.asked)
    fit("offline", "--run.wandb", "offline", "--budget.kimg", 0.048)
    folder = fit("offline", "--run.wandb", "offline", "--ckpt_path", "last")
    assert len(server.asked) == asked
    logs = sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(logs) == 2
    logged = [row for log in logs for row in wandb_log.history(log)]
    assert [row["_step"] for row in logged] == list(range(len(logged)))
    plain = [{key: value for key, value in row.items() if not key.startswith("_")} for row in logged]
    scalars = [row for row in plain if not any(key.split(".")[0] in ("samples", "figures") for key in row)]
    kept = [{key: value for key, value in row.items() if key != "seconds"} for row in rows(folder)]
    assert len(scalars) == len(kept)
    assert all(row == pytest.approx(expected, rel=1e-6) for row, expected in zip(scalars, kept, strict=True))
    assert wandb_log.config(logs[0])["config"]["model"]["init_args"]["width"] == 8
    sync(folder)
    assert_all_arrived(server, folder)
    arrived = server.runs[record(folder)["wandb_id"]].history
    assert [row["_step"] for row in arrived] == list(range(len(logged)))


def test_a_resumed_run_numbers_its_rows_as_one_with_a_server_and_without(fit: Fit, server: WandbServer) -> None:
    """Offline first, while no server knows of those rows; then online, and offline again."""
    fit("mixed", "--run.wandb", "offline", "--budget.kimg", 0.024)
    fit("mixed", "--run.wandb", "online", "--ckpt_path", "last", "--budget.kimg", 0.048)
    folder = fit("mixed", "--run.wandb", "offline", "--ckpt_path", "last")
    logs = sorted((folder / "wandb").glob("*run-*/run-*.wandb"), key=lambda log: log.stat().st_mtime)
    assert len(logs) == 3
    steps = [row["_step"] for log in logs for row in wandb_log.history(log)]
    assert steps == list(range(record(folder)["wandb_rows"]))


# Servers that fail.


@pytest.fixture
def failing(server: WandbServer) -> Iterator[Callable[[str], None]]:
    """Makes the server fail; afterwards it is well again."""

    def fail(how: str) -> None:
        if how == "gone":
            server.stop()
        else:
            server.fault = how

    yield fail
    server.stop()
    server.fault = None
    server.start()


W_AND_B_WAITS_S = 60.0
"""What it would wait at the start is 90 s, and at the end there is no limit; a busy machine takes 15 with ours."""
IMPATIENT = ("--run.wandb", "online", "--run.wandb_patience_s", 1.5)


@pytest.mark.parametrize("how", ["slow", "error", "gone"])
def test_a_run_whose_server_does_not_answer_is_kept_offline(
    how: str, fit: Fit, failing: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(how)
    start = time.monotonic()
    folder = fit(f"{how}_at_the_start", *IMPATIENT, "--budget.kimg", 0.008)
    assert time.monotonic() - start < W_AND_B_WAITS_S
    assert "this run is kept offline" in capsys.readouterr().err
    (log,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    assert wandb_log.history(log)[-1]["samples_seen"] == 8


@pytest.mark.parametrize("how", ["slow", "error", "gone", "killed"])
def test_a_server_that_fails_in_the_middle_changes_nothing_but_a_line(
    how: str,
    fit: Fit,
    unwatched: Path,
    server: WandbServer,
    failing: Callable[[str], None],
    after_each_step: Callable[[Callable[[GAN], None]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(self: GAN) -> None:
        if self.samples_seen == 24 and self.trainer.global_step == 3:  # a trial step has counted none
            if how == "killed":
                kill_service()
            else:
                failing(how)

    after_each_step(fail)
    start = time.monotonic()
    folder = fit(f"{how}_in_the_middle", *IMPATIENT)
    assert time.monotonic() - start < W_AND_B_WAITS_S
    assert_same_state(checkpoint(folder), checkpoint(unwatched))
    err = capsys.readouterr().err
    if how == "killed":
        assert "W&B is lost" in err
        assert "Traceback" not in err
        # wandb's own thread would log an error, up to 15 s later.
        assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("wandb")]
        return
    assert "`wandb sync --no-skip-online" in err
    server.stop()
    server.fault = None
    server.start()
    sync(folder)
    assert_all_arrived(server, folder)


def kill_service() -> None:
    """Kills wandb's service, a child of this process."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"wandb-core" in (path / "cmdline").read_bytes():
                os.kill(int(path.name), signal.SIGKILL)

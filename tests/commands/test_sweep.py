"""sweep: trials of a W&B sweep file without an account. Most train nothing: a script leaves what `fit` would leave."""

import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from commands.options.command_line import TrainingCLI, as_input_errors, quietly
from commands.sweep import read_values
from commands.sweeps.file import Parameter, SweepFile, is_beaten, read_sweep_file
from commands.sweeps.proposals import Trial, next_trial
from main import main
from tests.commands.conftest import record
from tests.wandb_server import WandbServer

REPOSITORY = Path(__file__).parents[2]
SHIPPED = sorted((REPOSITORY / "configs" / "sweeps").glob("*.yaml"))

TRAINER = """
import json, os, pathlib, signal, sys, time
given = json.loads(sys.argv[1])
run = pathlib.Path(given["run.root"], given["run.name"], given["run.id"])
run.mkdir(parents=True)
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
if given.get("fails"):
    sys.exit("error: no luck")
for step in range(1, given.get("steps", 3) + 1):
    row = {"samples_seen": 8 * step, "loss": (given["lr"] - 0.3) ** 2 + 1 / step, "cuda": os.environ.get("CUDA_VISIBLE_DEVICES")}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + chr(10))
    time.sleep(given.get("wait", 0))
"""  # noqa: E501

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a sweep file named s.yaml; its trials run a script in place of a training, in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(TRAINER)

    def make(method: str = "grid", parameters: object = None, **more: object) -> Path:
        content = {
            "method": method,
            "metric": {"name": "loss", "goal": "minimize"},
            "parameters": parameters or {"lr": {"values": [0.1, 0.2, 0.4]}, "steps": {"values": [1, 2]}},
            "command": ["${interpreter}", "train.py", "${args_json}"],
            **more,
        }
        path = tmp_path / "s.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return make


def kept(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "runs" / "s" / "sweep.json").read_text())


def test_a_grid_is_complete_and_its_best_is_named(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", str(write())]) == 0
    sweep = kept(tmp_path)
    assert [(trial["settings"]["lr"], trial["settings"]["steps"]) for trial in sweep["trials"]] == [
        (0.1, 1), (0.1, 2), (0.2, 1), (0.2, 2), (0.4, 1), (0.4, 2),
    ]  # fmt: skip
    assert {trial["state"] for trial in sweep["trials"]} == {"done"}
    for trial in sweep["trials"]:
        expected = (trial["settings"]["lr"] - 0.3) ** 2 + 1 / trial["settings"]["steps"]
        assert trial["value"] == pytest.approx(expected)
        assert trial["measurements"] == trial["settings"]["steps"]
        assert (tmp_path / "runs" / "s" / f"trial{trial['number']:03d}" / "metrics.jsonl").exists()
    assert (sweep["status"], sweep["best"]["trial"]) == ("done", 3)  # 0.2 and 0.4 are as good: the earlier one
    out, err = capsys.readouterr()
    assert shlex.split(out) == ["python", "train.py", '{"lr": 0.2, "steps": 2}']
    assert out.strip() == sweep["best"]["command"]
    assert "best: trial 3" in err
    assert err.count(" done ") == 6  # not a terminal: a line for each


def test_a_failed_trial_is_recorded_and_passed_over(write: Write, tmp_path: Path) -> None:
    path = write(parameters={"fails": {"values": [False, True]}, "lr": {"values": [0.1, 0.2]}})
    assert main(["sweep", str(path)]) == 0
    trials = kept(tmp_path)["trials"]
    assert [trial["state"] for trial in trials] == ["done", "done", "failed", "failed"]
    assert trials[2]["error"] == "exit code 1: error: no luck"
    assert kept(tmp_path)["best"]["trial"] == 1


def test_trials_that_all_fail_end_the_sweep_soon(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"lr": {"values": [0.1 * i for i in range(8)]}}
    assert main(["sweep", str(write(parameters={**settings, "fails": {"value": True}}))]) == 1
    assert [trial["state"] for trial in kept(tmp_path)["trials"]] == ["failed"] * 5
    assert "the first 5 trials failed" in capsys.readouterr().err
    late = {"fails": {"values": [False, True]}, "lr": {"values": [0.1 * i for i in range(6)]}}
    assert main(["sweep", str(write(parameters=late)), "--name", "late"]) == 0
    assert len(json.loads((tmp_path / "runs" / "late" / "sweep.json").read_text())["trials"]) == 12


def test_without_a_single_success_the_exit_code_is_1(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(write(parameters={"fails": {"value": True}}))]) == 1
    assert "no trial has a value" in capsys.readouterr().err
    path = write(parameters={"lr": {"value": 0.1}}, metric={"name": "accuracy", "goal": "maximize"})
    assert main(["sweep", str(path), "--name", "other"]) == 1


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_sweep_goes_on_as_if_it_had_never_stopped(method: str, write: Write, tmp_path: Path) -> None:
    if method == "bayes":
        pytest.importorskip("optuna")
    path = write(method, {"lr": {"min": 0.0, "max": 1.0}, "steps": {"values": [1, 2]}})
    assert main(["sweep", str(path), "--count", "7", "--name", "whole"]) == 0
    assert main(["sweep", str(path), "--count", "3"]) == 0
    first = kept(tmp_path)["trials"]
    assert main(["sweep", str(path), "--count", "7"]) == 0
    assert kept(tmp_path)["trials"][:3] == first
    whole = json.loads((tmp_path / "runs" / "whole" / "sweep.json").read_text())["trials"]
    assert [trial["settings"] for trial in kept(tmp_path)["trials"]] == [trial["settings"] for trial in whole]
    assert len({trial["settings"]["lr"] for trial in whole}) == 7


def test_bayes_comes_nearer_than_random_draws(tmp_path: Path, write: Write) -> None:
    pytest.importorskip("optuna")
    found = {}
    for method in ("random", "bayes"):
        file = read_sweep_file(write(method, {"lr": {"min": 0.0, "max": 1.0}}))
        distances = []
        for seed in range(5):
            trials: list[Trial] = []
            for _ in range(30):
                trial = next_trial(file, trials, seed)
                assert trial is not None
                trial.state, trial.value = "done", (trial.settings["lr"] - 0.3) ** 2
                trials.append(trial)
            distances.append(statistics.mean(abs(trial.settings["lr"] - 0.3) for trial in trials[15:]))
        found[method] = statistics.mean(distances)
    assert found["bayes"] < found["random"] / 2


def test_a_killed_sweep_goes_on(write: Write, tmp_path: Path) -> None:
    path = write(parameters={"lr": {"values": [0.1, 0.2, 0.3, 0.4]}, "steps": {"value": 2}, "wait": {"value": 0.3}})
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "main.py"), "sweep", str(path)], stderr=subprocess.PIPE, cwd=tmp_path
    )
    wait_until(lambda: states(tmp_path) == ["done", "running"])
    process.kill()
    process.communicate()
    before = kept(tmp_path)["trials"]
    orphan = before[1]["pid"]
    assert states(tmp_path) == ["done", "running"]
    assert main(["sweep", str(path)]) == 0
    assert not Path(f"/proc/{orphan}/cmdline").exists() or not Path(f"/proc/{orphan}/cmdline").read_bytes()
    trials = kept(tmp_path)["trials"]
    assert trials[0] == before[0]
    assert [(trial["state"], trial["attempt"]) for trial in trials] == [
        ("done", 1),
        ("done", 2),
        ("done", 1),
        ("done", 1),
    ]
    assert [trial["measurements"] for trial in trials] == [2, 2, 2, 2]
    assert Path(trials[1]["run"]).name == "trial001-2"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_trials_in_order(number: signal.Signals, code: int, write: Write, tmp_path: Path) -> None:
    path = write(parameters={"lr": {"values": [0.1, 0.2]}, "steps": {"value": 40}, "wait": {"value": 0.5}})
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "main.py"), "sweep", str(path), "--parallel", "2"],
        stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    logs = [tmp_path / "runs" / "s" / name / "metrics.jsonl" for name in ("trial000", "trial001")]
    wait_until(lambda: all(log.exists() for log in logs))
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code, err
    assert "Traceback" not in err
    sweep = kept(tmp_path)
    assert sweep["status"] == "stopped"
    assert [(trial["state"], trial["exit_code"]) for trial in sweep["trials"]] == [("stopped", 130)] * 2


def states(tmp_path: Path) -> list[str]:
    return [trial["state"] for trial in kept(tmp_path)["trials"]] if (tmp_path / "runs/s/sweep.json").exists() else []


def wait_until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.02)


def test_hyperband_ends_what_lies_behind(write: Write, tmp_path: Path) -> None:
    """Of four trials one after another, each worse than the one before, the first alone goes on past a measurement."""
    parameters = {"lr": {"values": [0.3, 0.5, 0.7, 0.9]}, "steps": {"value": 12}, "wait": {"value": 0.15}}
    path = write(parameters=parameters, early_terminate={"type": "hyperband", "min_iter": 2, "eta": 4})
    assert main(["sweep", str(path)]) == 0
    trials = kept(tmp_path)["trials"]
    assert [trial["state"] for trial in trials] == ["done", "early", "early", "early"]
    assert trials[0]["measurements"] == 12
    assert all(2 <= trial["measurements"] < 12 for trial in trials[1:])
    assert all(trial["exit_code"] == 143 for trial in trials[1:])
    assert kept(tmp_path)["best"]["trial"] == 0


def test_parallel_trials_are_dealt_the_gpus(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    path = write(parameters={"lr": {"values": [0.1, 0.2, 0.3, 0.4]}, "steps": {"value": 2}, "wait": {"value": 0.2}})
    assert main(["sweep", str(path), "--parallel", "2"]) == 0
    logs = sorted((tmp_path / "runs" / "s").glob("trial*/metrics.jsonl"))
    devices = [json.loads(log.read_text().splitlines()[0])["cuda"] for log in logs]
    assert sorted(devices[:2]) == ["3", "5"]
    assert set(devices) == {"3", "5"}


def test_another_file_does_not_go_on_with_a_sweep(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(write(parameters={"lr": {"value": 0.1}}))]) == 0
    assert main(["sweep", str(write(parameters={"lr": {"value": 0.2}}))]) == 2
    assert "--name" in capsys.readouterr().err


# The file.


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "hyperopt"}, "method: must be grid"),
        ({"metric": {"name": "loss", "goal": "less"}}, "metric.goal"),
        ({"metric": None}, "metric: needs a name"),
        ({"parameters": {"lr": {"min": 0.0, "max": 1.0}}}, "parameters.lr: a grid needs"),
        ({"parameters": {"run.name": {"value": "x"}}}, "parameters.run.name"),
        ({"parameters": {"a": {"parameters": {"b": {"value": 1}}}}}, "parameters.a.parameters"),
        ({"parameters": {"model.a": {"value": 1}, "model.init_args.b": {"value": 1}}}, "parameters.model.init_args.b"),
        ({"method": "random", "parameters": {"a": {"min": 1, "max": 2.0}}}, "parameters.a: min and max"),
        ({"method": "random", "parameters": {"a": {"min": 2, "max": 1}}}, "parameters.a: min must be below"),
        ({"method": "random", "parameters": {"a": {"distribution": "beta"}}}, "parameters.a.distribution: 'beta'"),
        ({"method": "random", "parameters": {"a": {"values": [1, 2], "probabilities": [1, 0]}}}, "a.probabilities"),
        ({"method": "bayes", "parameters": {"a": {"distribution": "log_uniform_values", "min": 0, "max": 1}}}, "a.min"),
        ({"method": "random", "parameters": {"a": {"distribution": "uniform", "min": "1e-4", "max": 1.0}}}, "1.0e-4"),
        ({"command": ["train.py"]}, "command: without"),
        ({"command": ["train.py", "${args_json_file}"]}, "${args_json_file} is not supported"),
        ({"early_terminate": {"type": "envelope"}}, "early_terminate.type"),
        ({"early_terminate": {"type": "hyperband"}}, "early_terminate: needs"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 1, "strict": True}}, "early_terminate.strict"),
        ({"imputation": 1}, "imputation: not supported"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_said_in_one_line(
    change: dict[str, Any], said: str, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", str(write(**change)), "--count", "1"]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_a_sweep_without_an_end_asks_for_a_count(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(write("random"))]) == 2
    assert "--count" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("parameter", "low", "middle", "high"),
    [
        (Parameter("a", (1, "b", None)), 1, "b", None),
        (Parameter("a", None, "int_uniform", low=1, high=5), 1, 3, 5),
        (Parameter("a", None, "uniform", low=1.0, high=5.0), 1.0, 3.0, 5.0),
        (Parameter("a", None, "log_uniform_values", low=1e-4, high=1e-2), 1e-4, 1e-3, 1e-2),
        (Parameter("a", None, "log_uniform", low=-2.0, high=2.0), np.exp(-2), 1.0, np.exp(2)),
        (Parameter("a", None, "q_uniform", low=0, high=7, q=2), 0, 4, 6),
        (Parameter("a", None, "q_log_uniform_values", low=16, high=256, q=16), 16, 64, 256),
        (Parameter("a", None, "normal", mu=3.0, sigma=2.0), None, 3.0, None),
        (Parameter("a", None, "log_normal", mu=0.0, sigma=2.0), None, 1.0, None),
        (Parameter("a", None, "q_normal", mu=3.2, sigma=2.0, q=0.5), None, 3.0, None),
    ],
)
def test_quantiles_of_the_distributions(parameter: Parameter, low: object, middle: object, high: object) -> None:
    almost_one = 1 - 1e-12
    for u, expected in ((0.0, low), (0.5, middle), (almost_one, high)):
        if expected is None and parameter.choices is None:
            continue
        value = parameter.at(u)
        assert type(value) is type(expected) or isinstance(expected, float)
        assert value == (pytest.approx(expected) if isinstance(expected, float) else expected)


def test_drawn_values_have_their_distributions(write: Write) -> None:
    file = read_sweep_file(write("random", {
        "a": {"distribution": "normal", "mu": 2.0, "sigma": 3.0},
        "b": {"min": 1, "max": 3},
        "c": {"values": ["x", "y"]},
    }))  # fmt: skip
    trials: list[Trial] = []
    for _ in range(4000):
        trial = next_trial(file, trials, seed=0)
        assert trial is not None
        trials.append(trial)
    normal = np.array([trial.settings["a"] for trial in trials])
    assert normal.mean() == pytest.approx(2, abs=4 * 3 / 4000**0.5)
    assert normal.std() == pytest.approx(3, rel=0.06)
    for key, values in (("b", [1, 2, 3]), ("c", ["x", "y"])):
        counts = [sum(trial.settings[key] == value for trial in trials) for value in values]
        assert sum(counts) == 4000
        assert min(counts) > 4000 / len(values) * 0.9


def test_rungs_are_those_of_wandb(write: Write) -> None:
    def rungs(**stated: object) -> tuple[int, ...]:
        hyperband = read_sweep_file(write(early_terminate={"type": "hyperband", **stated})).hyperband
        assert hyperband is not None
        return hyperband.rungs

    assert rungs(min_iter=3)[:4] == (3, 9, 27, 81)
    assert rungs(max_iter=27, s=2) == (3, 9)
    assert rungs(min_iter=1, eta=2)[:4] == (1, 2, 4, 8)


def test_a_trial_is_beaten_by_those_that_got_as_far() -> None:
    assert not is_beaten([3.0], 1, [], eta=2)
    assert is_beaten([3.0], 1, [[2.0]], eta=2)
    assert not is_beaten([3.0, 1.0], 2, [[2.0, 2.5]], eta=2)  # its best so far counts
    assert not is_beaten([3.0, 3.0], 2, [[2.0]], eta=2)  # the other did not get there
    assert not is_beaten([3.0], 1, [[2.0], [4.0], [5.0]], eta=2)
    assert is_beaten([3.0], 1, [[2.0], [4.0], [5.0]], eta=4)


def test_a_row_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = ('{"samples_seen": 1, "loss": 1.0}', '{"samples_seen": 2, "other": 3}', '{"samples_seen": 3, "loss": 2.0}')
    path.write_text("\n".join([*rows, '{"samples_seen": 4, "loss": 3']))
    assert read_values(path, "loss") == [1.0, 2.0]


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_a_shipped_sweep_is_whole(path: Path, write: Write) -> None:
    file: SweepFile = read_sweep_file(path)
    assert file.words({"a": 1}, "python")[-1] == '{"a": 1}'
    assert path.read_text().startswith(f"# python main.py sweep configs/sweeps/{path.name}\n")
    assert (file.run_cap or len(file.grid())) == 6


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_settings_reach_a_fit_through_json_with_their_types(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    file = read_sweep_file(path)
    settings = {parameter.key: parameter.at(0.5) for parameter in file.parameters}
    more = {
        "run.root": "runs", "run.name": "s", "run.id": "trial000",
        "model.conditional": True, "data.batch_size": 16, "quality.extractor_weights": None,
        "quality.metrics": ["frechet", "inception_score"],
        "model.adversarial.loss": {"class_path": "models.parts.losses.Hinge"},
    }  # fmt: skip
    words = file.words({**settings, **more}, "python")
    with as_input_errors(), quietly():
        arguments = TrainingCLI([*words[2:], "--trainer.accelerator=cpu", "--run.wandb=off"]).arguments
    model = arguments.model.init_args
    found = {
        "model.adversarial.lr": model.adversarial.init_args.lr,
        "model.adversarial.beta1": model.adversarial.init_args.beta1,
        "model.adversarial.ema_halflife_kimg": model.adversarial.init_args.ema_halflife_kimg,
        "model.width": model.width,
        "budget.kimg": arguments.budget.kimg,
        "quality.every_kimg": arguments.quality.every_kimg,
        "quality.num_samples": arguments.quality.num_samples,
        "run.root": arguments.run.root, "run.name": arguments.run.name, "run.id": arguments.run.id,
        "model.conditional": model.conditional,
        "data.batch_size": arguments.data.init_args.batch_size,
        "quality.extractor_weights": arguments.quality.extractor_weights,
        "quality.metrics": arguments.quality.metrics,
    }  # fmt: skip
    for key, value in {**settings, **more}.items():
        if key != "model.adversarial.loss":
            assert found[key] == value, key
            assert isinstance(found[key], type(value)) or isinstance(value, int), key
    assert model.adversarial.init_args.loss.class_path == "models.parts.losses.Hinge"


def test_the_longer_form_of_a_key_reaches_a_fit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    settings = {"model.init_args.adversarial.lr": 1e-5, "data.init_args.batch_size": 16}
    words = read_sweep_file(SHIPPED[0]).words(settings, "python")
    with as_input_errors(), quietly():
        arguments = TrainingCLI([*words[2:], "--trainer.accelerator=cpu", "--run.wandb=off"]).arguments
    assert arguments.model.init_args.adversarial.init_args.lr == 1e-5
    assert arguments.data.init_args.batch_size == 16


# Real trainings.


@pytest.mark.slow
def test_a_sweep_trains_and_its_best_command_reaches_its_figure(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    content = {
        "method": "grid",
        "metric": {"name": "fd_effnet", "goal": "minimize"},
        "parameters": {"model.adversarial.lr": {"values": [2.0e-4, 2.0e-3]}, "budget.kimg": {"value": 0.04}},
        "command": ["${interpreter}", "main.py", "fit", "--config", str(config), "--config", "${args_json}"],
    }
    path = tmp_path / "real.yaml"
    path.write_text(yaml.safe_dump(content))
    assert main(["sweep", str(path), "--root", str(tmp_path / "runs")]) == 0
    folder = tmp_path / "runs" / "real"
    sweep = json.loads((folder / "sweep.json").read_text())
    for trial, lr in zip(sweep["trials"], (2.0e-4, 2.0e-3), strict=True):
        run = record(Path(trial["run"]))
        assert (run["status"], run["samples_seen"]) == ("done", 40)
        assert run["model"]["init_args"]["adversarial"]["init_args"]["lr"] == lr
        assert trial["value"] == pytest.approx(run["figures"]["fd_effnet"]["value"], rel=1e-6)
    words = shlex.split(capsys.readouterr().out)
    assert words[:2] == ["python", "main.py"]
    assert main(words[2:]) == 0
    (again,) = (tmp_path / "runs" / "small").iterdir()
    assert record(again)["figures"]["fd_effnet"]["value"] == pytest.approx(sweep["best"]["value"], rel=1e-6)


@pytest.mark.slow
def test_the_same_file_runs_by_wandb_sweep_and_wandb_agent(config: Path, tmp_path: Path) -> None:
    """The real command line of W&B, on a server on loopback."""
    server = WandbServer()
    server.start()
    content = {
        "program": "main.py",
        "method": "random",
        "metric": {"name": "fd_effnet", "goal": "minimize"},
        "parameters": {"model.adversarial.lr": {"min": 1.0e-4, "max": 1.0e-2}, "budget.kimg": {"value": 0.04}},
        "command": [
            *("${interpreter}", "main.py", "fit", "--config", str(config)),
            *("--run.wandb", "auto", "--config", "${args_json}"),
        ],
    }
    path = tmp_path / "real.yaml"
    path.write_text(yaml.safe_dump(content))
    read_sweep_file(path)
    plain = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment = {
        **plain, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0" * 40, "WANDB_ERROR_REPORTING": "false",
        "WANDB_DIR": str(tmp_path), "WANDB_DATA_DIR": str(tmp_path), "WANDB_CACHE_DIR": str(tmp_path),
        "OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip

    def wandb(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "wandb", *words],
            cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout + done.stderr

    try:
        wandb("sweep", "--project", "swept", str(path))
        (sweep_id,) = server.sweeps
        assert yaml.safe_load(server.sweeps[sweep_id]["config"])["command"] == content["command"]
        server.proposals = [{"model.adversarial.lr": 0.004, "budget.kimg": 0.04}]
        wandb("agent", "--count", "1", f"tester/swept/{sweep_id}")
        (run,) = server.runs.values()
        server.wait_until(lambda: run.complete)
    finally:
        server.stop()
    (folder,) = (tmp_path / "runs" / "small").iterdir()
    assert record(folder)["wandb_id"] == run.name  # the id that the agent gave
    assert (run.sweep, run.project, run.exit_code) == (sweep_id, "swept", 0)
    assert run.config["model.adversarial.lr"]["value"] == 0.004
    assert record(folder)["model"]["init_args"]["adversarial"]["init_args"]["lr"] == 0.004
    assert run.summary["fd_effnet"] == pytest.approx(record(folder)["figures"]["fd_effnet"]["value"], rel=1e-6)

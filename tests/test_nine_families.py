"""docs/programs/nine_families.sh gives nine families the same data, time and measurements."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from main import main

SCRIPT = Path(__file__).parents[1] / "docs" / "programs" / "nine_families.sh"
RECORDER = """#!/bin/sh
for word in "$@"; do printf '%s\\0' "$word"; done >> "$RECORD"
printf '\\n' >> "$RECORD"
"""
"""A program that, in the place of Python, writes down what it was called with."""


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """What follows `python main.py` in each of the script's commands."""
    folder = tmp_path_factory.mktemp("nine")
    (folder / "python").write_text(RECORDER)
    (folder / "python").chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["sh", str(SCRIPT)], check=True, cwd=folder, env={"PATH": path, "RECORD": str(folder / "record")})
    lines = (folder / "record").read_text().splitlines()
    return [line.split("\0")[1:-1] for line in lines]


def test_every_fit_is_a_config_with_the_same_data_time_and_figures(
    commands: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    shared = set()
    models = set()
    for arguments in (arguments for arguments in commands if arguments[0] == "fit"):
        with pytest.raises(SystemExit) as stop:
            main([*arguments, "--print_config"])
        printed = capsys.readouterr()
        assert stop.value.code in (0, None), printed.err
        config = yaml.safe_load(printed.out)
        models.add(config["model"]["class_path"])
        data = {key: value for key, value in config["data"]["init_args"].items() if key != "batch_size"}
        shared.add(json.dumps([config["data"]["class_path"], data, config["budget"], config["quality"]["num_samples"]]))
    assert len(models) == 9
    assert len(shared) == 1


def test_every_run_is_measured_alike(commands: list[list[str]]) -> None:
    trained = {Path(arguments[2]).stem for arguments in commands if arguments[0] == "fit"}
    for verb, least in (("evaluate", "frechet"), ("diagnose", "--num_samples")):
        measured = [arguments for arguments in commands if arguments[0] == verb and least in arguments]
        assert {Path(arguments[2]).name for arguments in measured} == trained
        assert len({tuple(arguments[3:]) for arguments in measured}) == 1
    assert commands[-1][0] == "compare"

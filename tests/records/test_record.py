"""Records survive being written and read, whatever version wrote them, and name what is broken."""

import json
import math
from pathlib import Path

import pytest

from records.diagnosis import Finding, Findings
from records.figures import Best, Figure, FigureRecord, recorded
from records.run import SCHEMA, Described, InitFrom, MemoryUse, ResumeOverride, RunRecord
from records.sweep import SweepRecord, Trial

FULL = RunRecord(
    SCHEMA,
    "1",
    "name",
    "stopped",
    model=Described("models.dcgan.DCGAN", {"width": 8, "adversarial": {"lr": 1e-4}}),
    init_from=InitFrom("x.ckpt", 3, ["a"]),
    resume_overrides=[ResumeOverride(7, ["model.lr: 1 -> 2"])],
    samples_seen=0,
    memory=MemoryUse("resident set", {"D step": 1.5}),
    figures={"fid": FigureRecord(3.0, {"seed": 0}, "lower", 0.1, 7, Best(2.0, 5))},
    diagnosis=Findings(7, [Finding("mode collapse", "found", figures={"recall": 0.5})]),
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    FULL.write(tmp_path / "run.json")
    assert RunRecord.read(tmp_path / "run.json", "run") == FULL
    sweep = SweepRecord(1, "s", "running", 0, {"method": "grid"}, trials=[Trial(0, {"lr": 1e-4}, exit_code=0)])
    sweep.write(tmp_path / "sweep.json")
    assert SweepRecord.read(tmp_path / "sweep.json", "sweep") == sweep


def test_what_is_empty_is_left_out_and_zeros_are_not() -> None:
    kept = RunRecord(SCHEMA, samples_seen=0).to_json()
    assert kept["samples_seen"] == 0
    assert not {"memory", "figures", "error", "init_from"} & set(kept)
    assert FULL.to_json()["diagnosis"]["findings"][0]["figures"] == {"recall": 0.5}


def test_keys_of_other_versions_do_no_harm() -> None:
    later = {**FULL.to_json(), "moon": {"phase": "full"}}
    later["memory"]["moon"] = 3
    assert RunRecord.from_json(later) == FULL
    assert RunRecord.from_json({"schema": 1, "memory": None, "devices": None}) == RunRecord(1)


def test_a_figure_that_is_not_a_number_stays_known(tmp_path: Path) -> None:
    FigureRecord(math.nan, {}).write(tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text())["value"] is None
    assert FigureRecord.read(tmp_path / "x.json", "figure").value is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"schema": "1"}, "schema is '1'"),
        ({"schema": True}, "schema is 'True'"),
        ({"schema": 1, "status": "asleep"}, "status is 'asleep'"),
        ({"schema": 1, "memory": {"peak_gib": {"D step": "much"}}}, "memory.peak_gib.D step is 'much'"),
        ({"schema": 1, "resume_overrides": [{"changed": "x"}]}, r"resume_overrides\[0\].changed is 'x'"),
        ({"schema": 1, "figures": {"f\x1bid\n": {"value": 1}}}, r"figures\.f\?id .protocol is missing"),
        ({"schema": 1, "diagnosis": {"findings": [{"name": "x", "verdict": 3}]}}, "verdict is '3'"),
        ({}, "schema is missing"),
    ],
)
def test_what_is_broken_is_named(content: object, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        RunRecord.from_json(content)
    assert str(caught.value).isprintable()


def test_the_best_value_is_the_best_by_the_figures_direction() -> None:
    def after(values: list[float], better: str | None) -> Best | None:
        found = None
        for number, value in enumerate(values):
            found = recorded(Figure(value, better), {}, number, found)  # type: ignore[arg-type]
        assert found is not None
        return found.best

    assert after([3.0, 1.0, 2.0, 1.0], "lower") == Best(1.0, 1)
    assert after([3.0, 1.0, 4.0], "higher") == Best(4.0, 2)
    assert after([3.0, 1.0], None) is None
    assert after([math.nan, 3.0, math.inf], "lower") == Best(3.0, 1)


def test_a_best_value_that_is_not_a_number_does_not_break_a_record() -> None:
    """An earlier version kept a first value that was infinite as the best."""
    kept = FigureRecord.from_json({"value": 3.0, "protocol": {}, "best": {"value": None, "samples_seen": 1}})
    assert kept.best == Best(None, 1)
    assert recorded(Figure(4.0, "lower"), {}, 2, kept).best == Best(4.0, 2)

"""`runs` on made-up runs: what it lists, and what it never removes."""

import json
from pathlib import Path

import pytest

from commands.runs import sizes
from main import main
from tests.commands.golden import figure, make_run
from tests.commands.test_compare import table


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_run(tmp_path / "runs" / "a" / "1", 300.0)
    make_run(tmp_path / "runs" / "a" / "2", 200.0, status="running", lr=1e-3)
    make_run(tmp_path / "runs" / "b" / "1", figures={"recall": figure(0.5, "higher", k=3)})
    return tmp_path / "runs"


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["runs", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_every_run_is_listed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = table(said(capsys, "list", "--root", root), "Runs")
    assert [(row["run"], row["status"], row["kimg"], row["newest figure"]) for row in rows] == [
        ("a/1", "done", "2", "fd_effnet 300"),
        ("b/1", "done", "2", "recall 0.5"),
        ("a/2", "running", "2", "fd_effnet 200"),
    ]
    assert float(rows[0]["size (MB)"]) == pytest.approx(1.0, abs=0.01)  # last.ckpt is another name of the same file


def test_a_broken_record_does_not_hide_the_others(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "a" / "1" / "run.json").write_text("{")
    assert main(["runs", "list", "--root", str(root)]) == 0
    captured = capsys.readouterr()
    assert [row["run"] for row in table(captured.out, "Runs")] == ["b/1", "a/2"]
    assert f"left out: {root / 'a' / '1' / 'run.json'} is broken" in captured.err


def test_the_best_of_each_protocol(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(root / "c" / "1", figures={"fd_effnet": figure(10.0, num_samples=50000)})
    make_run(root / "d" / "1", figures={"recall": figure(0.7, "higher", k=3)})
    rows = table(said(capsys, "best", "--root", root), "Best runs")
    assert {(row["run"], row["best run"], row["runs"]) for row in rows} == {
        ("fd_effnet", "a/2", "2"), ("fd_effnet", "c/1", "1"), ("recall", "d/1", "2"),
    }  # fmt: skip


def test_disk_by_kind(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "b" / "1" / "wandb").mkdir()
    (root / "b" / "1" / "wandb" / "log").write_bytes(b"x" * 500_000)
    rows = {row["run"]: row for row in table(said(capsys, "disk", "--root", root), "On disk")}
    assert rows["b/1"]["wandb"] == "0.5"
    assert rows["a/1"]["checkpoints"] == "1"
    assert rows["all"]["checkpoints"] == "3"
    assert sum(sizes(root / "b" / "1").values()) == pytest.approx(1e6 * float(rows["b/1"]["all"]), rel=1e-3)


def test_removing_asks_first(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert "nothing was removed" in said(capsys, "remove", "b/1", "--root", root)
    assert (root / "b" / "1").exists()
    monkeypatch.setattr("builtins.input", lambda question: "y")
    said(capsys, "remove", "b/1", "--root", root)
    assert not (root / "b").exists()  # nothing else bears this name
    assert (root / "a" / "1").exists()


def test_no_answer_is_no(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def closed(question: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", closed)
    said(capsys, "remove", "b/1", "--root", root)
    assert (root / "b" / "1").exists()


def test_a_running_run_stays_unless_forced(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "remove", "a/1", "a/2", "--yes", "--root", str(root)]) == 2
    assert "is running, or was killed; --force removes it" in capsys.readouterr().err
    assert (root / "a" / "1").exists()  # all or none
    said(capsys, "remove", "a/2", "--yes", "--force", "--root", root)
    assert [folder.name for folder in (root / "a").iterdir()] == ["1"]


def test_a_folders_path_names_a_run_too(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root.parent)
    said(capsys, "remove", "runs/a/1", "--yes")
    assert not (root / "a" / "1").exists()


def test_nothing_outside_the_root_is_removed(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outside = make_run(tmp_path / "elsewhere" / "a" / "1")
    (root / "link").symlink_to(outside.parent)
    (root / "b" / "link").symlink_to(outside)
    (root / "a" / "1" / "inner").mkdir()
    (root / "a" / "1" / "inner" / "run.json").write_text(json.dumps({"schema": 1}))
    for name in (outside, "../elsewhere/a/1", "link/1", "b/link", "a", ".", "a/1/inner", "a/1/../../../elsewhere/a/1"):
        assert main(["runs", "remove", str(name), "--yes", "--force", "--root", str(root)]) == 2, name
        assert capsys.readouterr().err.count("\n") == 1
    assert (outside / "run.json").exists()
    assert (root / "a" / "1" / "inner").exists()


def test_a_link_inside_a_run_is_not_followed(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_bytes(b"x" * 1000)
    (root / "b" / "1" / "samples" / "link").symlink_to(kept)
    said(capsys, "remove", "b/1", "--yes", "--root", root)
    assert (kept / "file").exists()


def test_an_unreadable_record_can_be_removed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "b" / "1" / "run.json").write_text("{")
    said(capsys, "remove", "b/1", "--yes", "--root", root)
    assert not (root / "b").exists()


def test_bad_input(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "list", "--root", str(tmp_path / "none")]) == 2
    assert "no folder" in capsys.readouterr().err
    assert main(["runs", "remove", "a/9", "--yes", "--root", str(root)]) == 2
    assert "no run.json in" in capsys.readouterr().err

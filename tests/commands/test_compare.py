"""`compare` on runs that `fit` left, with values known by hand."""

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands.comparison.protocols import NEUTRAL, SHARED
from main import main
from records.figures import LIKELIHOOD
from tests.commands.conftest import Run, only_run, record
from tests.commands.golden import bits, figure, make_run

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def compared(capsys: pytest.CaptureFixture[str], *paths: Path) -> str:
    capsys.readouterr()
    assert main(["compare", *map(str, paths)]) == 0
    return capsys.readouterr().out


def table(text: str, title: str) -> list[dict[str, str]]:
    """The rows of the table below a heading that begins with `title`, by column."""
    section = next(part for part in text.split("## ") if part.startswith(title))
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def titles(text: str) -> list[str]:
    return [line[3:] for line in text.splitlines() if line.startswith("## ")]


def test_figures_of_one_protocol_share_a_table(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = {"fd_effnet": figure(200.5, device="cuda")}
    paths = [make_run(runs / "a" / "1", 300.0), make_run(runs / "b" / "1", figures=elsewhere)]
    text = compared(capsys, *paths)
    assert [(row["run"], row["fd_effnet"]) for row in table(text, "Quality")] == [("a", "300"), ("b", "**200.5**")]
    assert "Quality 2" not in text


def test_other_protocols_stand_apart_and_say_why(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [
        make_run(runs / "a" / "1", 300.0),
        make_run(runs / "b" / "1", figures={"fd_effnet": figure(100.0, num_samples=10000)}),
        make_run(runs / "c" / "1", 290.0),
    ]
    text = compared(capsys, *paths)
    assert [row["run"] for row in table(text, "Quality 1")] == ["a", "c"]
    assert [(row["run"], row["fd_effnet"]) for row in table(text, "Quality 2")] == [("b", "100")]
    assert "Do not compare with Quality 1: num_samples 10000 (there 2048)." in text


@pytest.mark.parametrize("key", [*(key for key in SHARED if key != LIKELIHOOD), *NEUTRAL, "weights"])
def test_whatever_of_a_protocol_differs_keeps_figures_apart(
    key: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs, alike but for one value of their protocols: two tables, neither with a best value; which is named."""
    ours = {"weights": "ema", "precision": "float32"}
    of_sampler = key in (*NEUTRAL, "weights", "sampler")
    changed = {"sampler": {**ours, "weights" if key == "sampler" else key: 7}} if of_sampler else {key: "other"}
    make_run(runs / "a" / "1", figures={"fd_effnet": figure(300.0, sampler=ours)})
    make_run(runs / "b" / "1", figures={"fd_effnet": figure(100.0, **{"sampler": ours, **changed})})
    text = compared(capsys, runs / "a", runs / "b")
    assert [row["fd_effnet"] for row in table(text, "Quality 1")] == ["300"]
    assert [row["fd_effnet"] for row in table(text, "Quality 2")] == ["100"]
    why = next(line for line in text.splitlines() if line.startswith("Do not compare with Quality 1: "))
    assert re.search(rf"\b{key}\b", why)


def test_the_summary_says_how_good_for_how_much_and_how_it_failed(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collapse = {"name": "mode collapse", "verdict": "found", "says": "recall 0.1", "helps": "more training"}
    copies = {"name": "memorisation", "verdict": "suspect", "says": "2 % are near", "helps": "more data"}
    diagnosed = {"samples_seen": 2000, "findings": [collapse, copies]}
    other = {"fd_effnet": figure(100.0, num_samples=10000), "bits_per_dim": bits(4.5, "lower bound, by 8 samples")}
    hardware = {"cpu": "AMD EPYC", "gpu": "NVIDIA H100", "cores": 16}
    paths = [
        make_run(runs / "a" / "1", 300.0, seed=0, diagnosis=diagnosed),
        make_run(runs / "a" / "2", 320.0, seed=1, diagnosis=diagnosed),
        make_run(runs / "b" / "1", 290.0, hardware=hardware, diagnosis={"samples_seen": 2000, "findings": []}),
        make_run(runs / "c" / "1", figures=other, status="failed", error="no memory"),
    ]
    text = compared(capsys, *paths)
    a, b, c = table(text, "At a glance")
    assert [row["fd_effnet (Quality 1)"] for row in (a, b, c)] == ["310 ± 14", "**290**", ""]
    # Of another protocol, and alone there: 100 is no better than 290.
    assert [row["fd_effnet (Quality 2)"] for row in (a, b, c)] == ["", "", "100"]
    assert [row["bits_per_dim (lower bound)"] for row in (a, b, c)] == ["", "", "4.5"]
    assert (a["wall time"], a["s/kimg"], a["parameters"]) == ("30 min", "4.006", "190,672")
    assert a["memory (GiB)"] == "1.108"  # not the 1.206 of its metrics
    assert [row["hardware"] for row in (a, b)] == ["2 x AMD EPYC, 2 cores", "2 x NVIDIA H100"]
    assert [row["what went wrong"] for row in (a, b, c)] == [
        "mode collapse, memorisation?", "nothing found", "failed",
    ]  # fmt: skip
    assert "A ? marks a suspicion." in text
    assert "The same for all: data: Shapes, 10,000 examples; memory read from: resident set." in text


def test_the_summary_takes_the_newest_figure_and_not_the_best(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(runs / "a" / "1", 300.0)
    (folder / "evaluations").mkdir()
    for stamp, seen, value in (("1", 1000, 200.0), ("2", 2000, 310.0)):
        found = figure(value, model="DCGAN", samples_seen=seen)
        (folder / "evaluations" / f"{stamp}.json").write_text(json.dumps({"figures": {"fd_effnet": found}}))
    (row,) = table(compared(capsys, folder), "At a glance")
    assert row["fd_effnet"] == "310"


def test_what_trades_modes_is_protocol_and_what_a_family_needs_is_not(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"weights": "ema", "precision": "float32", "temperature": 1.0, "steps": 50}
    off = {"weights": "ema", "precision": "float32", "standing_statistics": 0, "standing_batch": 64}
    cold = {"weights": "ema", "precision": "float32", "temperature": 0.7}
    paths = [
        make_run(runs / "gan" / "1", figures={"fd_effnet": figure(300.0, sampler=off)}),
        make_run(runs / "flow" / "1", figures={"fd_effnet": figure(250.0, sampler=own)}),
        make_run(runs / "cold" / "1", figures={"fd_effnet": figure(150.0, sampler=cold)}),
    ]
    text = compared(capsys, *paths)
    assert [(row["run"], row["settings"]) for row in table(text, "Quality 1")] == [("gan", ""), ("flow", "steps 50")]
    assert [row["run"] for row in table(text, "Quality 2")] == ["cold"]
    assert "sampler.temperature 0.7 (there none)" in text


def test_seeds_become_mean_and_deviation(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, value in enumerate((280.0, 300.0, 320.0)):
        make_run(runs / "a" / str(seed), value, seed=seed)
    make_run(runs / "b" / "0", 290.0)
    text = compared(capsys, runs / "a", runs / "b")
    first, second = table(text, "Quality")
    assert (first["run"], first["fd_effnet"]) == ("a (3 seeds)", "300 ± 20")
    assert second["fd_effnet"] == "**290**"
    assert table(text, "Runs")[0]["seed"] == "0 / 1 / 2"
    assert table(text, "Training time")[0]["wall time"] == "30 min"


@pytest.mark.parametrize("other", [{"lr": 1e-3, "seed": 1}, {"samples_seen": 1000, "seed": 1}, {"seed": 0}])
def test_only_seeds_are_pooled(other: dict[str, object], runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not another learning rate, not a shorter run, and not a repetition of the same seed."""
    make_run(runs / "a" / "1", 280.0)
    make_run(runs / "a" / "2", 300.0, **other)  # type: ignore[arg-type]
    rows = table(compared(capsys, runs / "a"), "Quality")
    assert {row["run"]: row["fd_effnet"] for row in rows} == {"a/1": "**280**", "a/2": "300"}


def test_bits_name_bounds(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [
        make_run(runs / "flow" / "1", figures={"bits_per_dim": bits(3.35)}),
        make_run(runs / "vae" / "1", figures={"bits_per_dim": bits(4.5, "lower bound, by 8 importance samples")}),
    ]
    text = compared(capsys, *paths)
    exact, bound = (title for title in titles(text) if title.startswith("Bits"))
    assert "(exact)" in exact
    assert "(lower bound)" in bound
    assert "the likelihood is at least this high, so the bits are at most these" in text
    assert table(text, bound)[0]["settings"] == "by 8 importance samples, draws 1"
    assert "Quality" not in text


def test_evaluations_count_and_the_newest_replaces(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(runs / "a" / "1", 300.0)
    (folder / "evaluations").mkdir()
    for stamp, value in (("1", 250.0), ("2", 240.0)):
        found = figure(value, num_samples=10000, model="DCGAN", samples_seen=2000)
        (folder / "evaluations" / f"{stamp}.json").write_text(json.dumps({"figures": {"fd_effnet": found}}))
    text = compared(capsys, folder)
    assert [row["fd_effnet"] for row in table(text, "Quality 2")] == ["240"]


def test_evaluations_with_other_steps_are_rows_of_their_own(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(runs / "a" / "1", 300.0)
    (folder / "evaluations").mkdir()
    for steps, value in ((10, 250.0), (50, 240.0)):
        sampler = {"weights": "ema", "precision": "float32", "guidance": 1.0, "steps": steps}
        found = figure(value, model="FlowMatching", samples_seen=2000, sampler=sampler)
        (folder / "evaluations" / f"{steps}.json").write_text(json.dumps({"figures": {"fd_effnet": found}}))
    rows = table(compared(capsys, folder), "Quality")
    assert [(row["fd_effnet"], row["settings"]) for row in rows] == [
        ("300", ""), ("250", "steps 10"), ("240", "steps 50"),
    ]  # fmt: skip


def test_what_they_took(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = compared(capsys, make_run(runs / "a" / "1"))
    (time,) = table(text, "Training time")
    assert (time["kimg"], time["wall time"], time["device hours"], time["s/kimg"]) == ("2", "30 min", "1", "4.006")
    (parameters,) = table(text, "Parameters")
    assert (parameters["generator"], parameters["all"]) == ("146,032", "190,672")
    (memory,) = table(text, "Peak memory")
    assert (memory["D step"], memory["metrics"], memory["activations (MiB)"]) == ("1.108", "1.206", "4")
    assert memory["parameters, gradients, optimizer, averages (MiB)"] == "3"
    (data,) = table(text, "Data")
    assert (data["data"], data["training examples"], data["shape"]) == ("Shapes", "10,000", "1 x 32 x 32")
    (machine,) = table(text, "Hardware")
    assert (machine["device"], machine["precision"], machine["commit"]) == ("AMD EPYC", "bf16-mixed", "1581995240+")


def test_what_went_wrong(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finding = {"name": "memorisation", "verdict": "found", "says": "12 % are copies", "helps": "more data"}
    fine = {**finding, "name": "collapse", "verdict": "fine"}
    rows = [{"samples_seen": 1500, "seconds": 1.0, "d_loss": float("nan")}]
    paths = [
        make_run(runs / "failed" / "1", status="failed", error="ValueError: two\nlines | and a bar"),
        make_run(runs / "stopped" / "1", status="stopped"),
        make_run(runs / "running" / "1", status="running"),
        make_run(runs / "nan" / "1", None, rows=rows),
        make_run(runs / "copies" / "1", diagnosis={"samples_seen": 2000, "findings": [finding, fine]}),
        make_run(runs / "good" / "1"),
    ]
    text = compared(capsys, *paths)
    found = [(row["run"], row["what"]) for row in table(text, "What went wrong")]
    assert found == [
        ("failed/1", "failed"), ("stopped/1", "stopped"), ("running/1", "not finished"), ("nan/1", "not finite"),
        ("nan/1", "not finite"), ("copies/1", "memorisation: found"),
    ]  # fmt: skip
    assert "ValueError: two lines \\| and a bar" in text
    assert "d_loss was nan after 1.5 kimg" in text
    assert "1 of 6 runs were diagnosed" in text


def test_the_diagnosis_furthest_in_training_counts(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finding = {"name": "memorisation", "verdict": "found", "says": "12 % are copies", "helps": "more data"}
    folder = make_run(runs / "copies" / "1", diagnosis={"samples_seen": 2000, "findings": [finding]})
    (folder / "diagnosis").mkdir()
    for kimg, says in ((1000, "earlier"), (3000, "later")):
        found = {"samples_seen": kimg, "findings": [{**finding, "says": says}]}
        (folder / "diagnosis" / f"{kimg}.json").write_text(json.dumps(found))
    (row,) = table(compared(capsys, folder), "What went wrong")
    assert row["says"] == "later"
    (folder / "diagnosis" / "broken.json").write_text("{")
    assert main(["compare", str(folder)]) == 2
    assert "broken.json is broken" in capsys.readouterr().err


def test_the_csv_has_every_runs_values(runs: Path, tmp_path: Path) -> None:
    for seed, value in enumerate((280.0, 300.125)):
        make_run(runs / "a" / str(seed), value, seed=seed)
    path = tmp_path / "out" / "x.csv"
    assert main(["compare", str(runs / "a"), "--csv", str(path)]) == 0
    lines = list(csv.DictReader(io.StringIO(path.read_text())))
    assert list(lines[0]) == ["run", "table", "column", "value"]
    quality = [(line["run"], line["value"]) for line in lines if line["column"] == "fd_effnet"]
    assert quality == [("a/0", "280.0"), ("a/1", "300.125")]


def test_markdown_goes_to_a_file_whole(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.md"
    assert main(["compare", str(make_run(runs / "a" / "1")), "--md", str(path)]) == 0
    assert path.read_text().startswith("# Comparison of 1 run\n\n## At a glance\n")
    assert capsys.readouterr().out == ""
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".tmp"] == []


def test_the_run_of_a_fit_can_be_compared(fit: Run, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("--quality.metrics", "[frechet, precision_recall]") == 0
    folder = only_run(config)
    text = compared(capsys, folder)
    kept = record(folder)
    (quality,) = table(text, "Quality")
    assert quality["precision"] == f"{kept['figures']['precision']['value']:.4g}"
    assert kept["figures"]["fd_effnet"]["better"] == "lower"
    (parameters,) = table(text, "Parameters")
    assert parameters["all"] == f"{sum(kept['parameters'].values()):,}"
    assert set(titles(text)) >= {"Runs", "Training time", "Peak memory", "Data", "Hardware and versions"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is broken"),
        ("[1]", "is broken: it is not the record of a run"),
        ("{}", "is broken: schema is missing"),
        ('{"schema": 2}', "has schema 2, of a later version of Atelier"),
        ('{"schema": 1, "parameters": 3}', "is broken: parameters is '3'"),
        ('{"schema": 1, "figures": {"fid": 3}}', "is broken: figures.fid is '3'"),
        ('{"schema": 1, "figures": {"fid": {"value": 3}}}', "is broken: figures.fid.protocol is missing"),
    ],
)
def test_a_broken_record_is_one_line(content: str, says: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(runs / "a" / "1")
    (folder / "run.json").write_text(content)
    assert main(["compare", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{folder / 'run.json'} {says}" in error


def test_damaged_lines_are_counted_and_one_cut_short_by_a_kill_is_not(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(content: bytes) -> dict[str, bytes]:
        lines = content.splitlines(keepends=True)
        zeros = content[:40] + bytes(60) + content[100:]
        return {"zeros": zeros, "text": lines[0] + b"x\n" + b"".join(lines[1:]), "killed": content[:-9]}

    for name in ("killed", "text", "zeros"):
        metrics = make_run(runs / name / "1") / "metrics.jsonl"
        metrics.write_bytes(change(metrics.read_bytes())[name])
    rows = table(compared(capsys, *sorted(runs.iterdir())), "What went wrong")
    assert [(row["run"], row["what"]) for row in rows] == [("text/1", "damaged"), ("zeros/1", "damaged")]
    assert all(row["says"].startswith("1 line of metrics.jsonl cannot be read") for row in rows)


def places(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where a record has values, inner ones included."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))


def test_whatever_a_record_holds_there_are_tables_or_one_line(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every value replaced by one of every other type."""
    finding = {"name": "memorisation", "verdict": "found", "says": "12 % are copies", "helps": "more data"}
    folder = make_run(
        runs / "a" / "1",
        figures={"fd_effnet": {**figure(300.0), "spread": 1.0}},
        diagnosis={"samples_seen": 2000, "findings": [finding]},
        init_from={"path": "x.ckpt"},
    )
    whole = record(folder)
    answers = set()
    for path in places(whole):
        for planted in (None, 3, "x", [1], {"x": None}):
            changed = json.loads(json.dumps(whole))
            inner = changed
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = planted
            (folder / "run.json").write_text(json.dumps(changed))
            code = main(["compare", str(folder), "--html", str(runs / "x.html")])
            error = capsys.readouterr().err
            assert code == 0 or (code == 2 and str(folder / "run.json") in error), (path, planted, error)
            assert error.count("\n") == 1
            answers.add(code)
    assert answers == {0, 2}


def test_other_bad_input_is_one_line(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(runs / "a" / "1")
    empty = runs / "empty"
    empty.mkdir()
    for arguments, says in (
        ([empty], f"no run.json in {empty}"),
        ([runs / "none"], f"no folder {runs / 'none'}"),
        ([folder, "--csv", "x.txt"], "--csv x.txt: name a file ending in .csv"),
        ([folder, "--grids", "-1"], "--grids must be at least 0"),
    ):
        assert main(["compare", *map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1


def test_a_configuration_or_evaluation_that_is_broken_is_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(runs / "a" / "1")
    (folder / "evaluations").mkdir()
    for path, content in ((folder / "config.yaml", "a: [1"), (folder / "evaluations" / "1.json", "{}")):
        before = path.read_text() if path.exists() else '{"figures": {}}'
        path.write_text(content)
        assert main(["compare", str(folder)]) == 2
        assert str(path) in capsys.readouterr().err
        path.write_text(before)


def test_text_of_files_cannot_steer_a_terminal(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = compared(capsys, make_run(runs / "a" / "1", status="failed", error="\x1b[2J\x07boom"))
    assert "\x1b" not in text
    assert "?[2J?boom" in text


@pytest.mark.parametrize("verb", [["compare"], ["runs", "list", "--root"]])
def test_no_torch_is_imported(verb: list[str], runs: Path, tmp_path: Path) -> None:
    make_run(runs / "a" / "1")
    place = [str(runs)] if verb[0] == "runs" else [str(runs / "a"), "--html", str(tmp_path / "x.html")]
    code = f"import sys; from main import main; assert main({[*verb, *place]!r}) == 0; print(*sorted(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60
    )
    loaded = {name.partition(".")[0] for name in result.stdout.splitlines()[-1].split()}
    assert not loaded & {"torch", "numpy", "lightning", "wandb", "PIL"}

"""Settings of samplers are declared once: as a field they are a flag, a setting, a line of the protocol and a sweep."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from commands.comparison.protocols import NEUTRAL
from commands.evaluate import parser as evaluate_parser
from commands.options.parsers import parsed
from commands.sample import parser as sample_parser
from main import main
from settings import likelihood, sampling
from settings.fields import setting
from tests.callbacks.pixel_histogram import PixelHistogram
from tests.commands.conftest import cells, saved


@dataclass(frozen=True)
class TintedSettings(sampling.SamplerSettings):
    """Settings that no family of ours has."""

    tint: float = setting(0.0, "the value of all pixels", neutral=0.0, swept=True)
    side: Literal["left", "right"] | None = setting(None, "the half that is tinted; both where left out")
    inverted: bool = setting(False, "black for white")


class Tinted(PixelHistogram):
    """A user's own model, in a file that is not of the project."""

    settings_class: ClassVar[type[TintedSettings]] = TintedSettings

    def generate(self, generators: Sequence[torch.Generator], labels: Tensor, settings: TintedSettings) -> Tensor:  # type: ignore[override]
        x = torch.zeros(len(generators), *self.data_shape)
        half = x.shape[-1] // 2
        columns = {None: slice(None), "left": slice(half), "right": slice(half, None)}[settings.side]
        x[..., columns] = -settings.tint if settings.inverted else settings.tint
        return x


@pytest.fixture(scope="module")
def tinted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(Tinted((3, 16, 16)), tmp_path_factory.mktemp("tinted") / "tinted.ckpt")


def test_settings_of_a_users_own_model_are_flags_settings_and_protocol(tinted: Path, tmp_path: Path) -> None:
    out = tmp_path / "drawn.npz"
    arguments = ["--num", "2", "--tint", "0.5", "--side", "left", "--inverted"]
    assert main(["sample", "--ckpt_path", str(tinted), "--out", str(out), *arguments]) == 0
    with np.load(out) as arrays:
        samples, settings = arrays["samples"], json.loads(str(arrays["protocol"]))["settings"]
    assert settings == {"weights": "ema", "precision": "float32", "tint": 0.5, "side": "left", "inverted": True}
    assert set(samples[:, :, :8].flatten()) == {64}
    assert set(samples[:, :, 8:].flatten()) == {128}


def test_one_that_may_be_swept_is_swept(
    tinted: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet, folder = tmp_path / "sheet.png", tmp_path / "reals"
    assert main(["sample", "--ckpt_path", str(tinted), "--out", str(sheet), "--num", "3", "--tint", "-1", "1"]) == 0
    rows = cells(sheet, 2, 3)
    assert (set(rows[0].flatten()), set(rows[1].flatten())) == ({0}, {255})
    assert json.loads((tmp_path / "sheet.png.json").read_text())["rows"] == {"tint": [-1.0, 1.0]}

    assert main(["sample", "--ckpt_path", str(tinted), "--out", str(folder), "--num", "4", "--tint", "0"]) == 0
    capsys.readouterr()
    measured = ["--reference", str(folder), "--resolution", "32", "--num_samples", "4", "--cache_dir", str(cache)]
    words = ["--metrics", "frechet", "--tint", "0", "0.5", "--json"]
    assert main(["evaluate", "--ckpt_path", str(tinted), *measured, *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["swept"], found["values"]) == ("tint", [0.0, 0.5])
    figures = [result["figures"]["fd_effnet"] for result in found["results"]]
    assert [figure["protocol"]["sampler"]["tint"] for figure in figures] == [0.0, 0.5]
    assert main(["evaluate", "--ckpt_path", str(tinted), *measured, *words[:-1]]) == 0
    header, _, *rows_of_table = capsys.readouterr().out.splitlines()[:4]
    assert [line.split()[1] for line in (header, *rows_of_table)] == ["tint", "0", "0.5"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tin", "0.5"], "unrecognized arguments: --tin 0.5"),
        (["--tint", "much"], "argument --tint: invalid float value: 'much'"),
        (["--side", "top"], "argument --side: invalid choice: 'top'"),
        (["--tint", "0.5", "--brightness=2"], "unrecognized arguments: --brightness=2"),
        (["--guidance", "2"], "Tinted has no guidance"),
    ],
)
def test_what_no_one_knows_is_one_line_that_names_the_flag(
    words: list[str], said: str, tinted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", "--ckpt_path", str(tinted), "--out", str(tmp_path / "x.png"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {said}")


@pytest.mark.parametrize("words", [["--truncation", "0.5"], ["--tint", "0.5"]])
def test_finished_samples_have_no_settings(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--samples", "pictures", "--reference", "others", *words]) == 2
    assert f"error: {words[0]} needs --ckpt_path" in capsys.readouterr().err


def test_a_class_that_is_added_to_the_file_is_a_flag_of_every_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "TintedSettings", TintedSettings, raising=False)
    text = " ".join(sample_parser().format_help().split())
    assert "--side {left,right}" in text
    assert "Tinted: the value of all pixels (0.0); several for a sweep" in text
    words = ["--ckpt_path", "x", "--out", "y", "--tint", "0.5", "1", "--no-inverted"]
    options = parsed(sample_parser(), words)
    assert (options.tint, options.side, options.inverted, options.unknown) == ([0.5, 1.0], None, False, [])
    assert sampling.neutral() == {**NEUTRAL, "tint": 0.0}


def test_families_agree_on_what_they_call_by_one_name() -> None:
    for offered in (sampling.offered(), likelihood.offered()):
        by_name: dict[str, set[tuple[object, ...]]] = {}
        for each in offered:
            assert each.help, each
            by_name.setdefault(each.name, set()).add((each.kind, each.choices, each.swept))
        assert {name: found for name, found in by_name.items() if len(found) > 1} == {}
    families = sampling.families()
    neutral = {pair for family in families for pair in sampling.neutral_values([family]).items()}
    assert len(dict(neutral)) == len(neutral)


def test_likelihoods_settings_are_flags_of_evaluate() -> None:
    words = ["--ckpt_path", "x", "--likelihood_draws", "3", "--likelihood_divergence", "exact"]
    options = parsed(evaluate_parser(), words)
    assert (options.likelihood_draws, options.likelihood_divergence, options.likelihood_steps) == (3, "exact", None)


@pytest.mark.parametrize(("name", "value"), [("weights", "last"), ("precision", "float8"), ("side", "top")])
def test_a_choice_that_there_is_not_is_named(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be .* or .*, not '{value}'"):
        TintedSettings(**{name: value})  # type: ignore[arg-type]

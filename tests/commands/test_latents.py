"""`latents walk`, `mix`, `path_length` and sweeps of the truncation, on models that were not trained."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from main import main
from metrics.interpolation import lerp, slerp
from models import load
from models.biggan import BigGAN
from models.dcgan import DCGAN
from models.stylegan2 import StyleGAN2
from settings.sampling import StyleGAN2Settings
from tests.commands.conftest import cells, pixels, saved

STILL = StyleGAN2Settings(noise="const")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints by family: StyleGAN2 with classes and noise that shows, BigGAN, and DCGAN."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    styled = StyleGAN2((3, 16, 16), 3, channel_base=64, channel_max=8, latent_dim=6, w_dim=5, mapping_layers=2,
                       minibatch_group=2, conditional=True)  # fmt: skip
    for name, value in styled.state_dict().items():
        if name.endswith("noise_strength"):
            value.fill_(0.3)
        if name.endswith("w_average"):
            value.normal_()
    return {
        "StyleGAN2": saved(styled, folder / "stylegan2.ckpt"),
        "DCGAN": saved(DCGAN((1, 16, 16), 0, width=4, latent_dim=6), folder / "dcgan.ckpt"),
        "BigGAN": saved(BigGAN((3, 32, 32), 3, width=4, latent_dim=6), folder / "biggan.ckpt"),
    }


# interpolate


def test_a_strip_walks_on_a_great_circle_of_latents(models: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "new" / "strip.png"
    arguments = ["--rows", "2", "--steps", "4", "--indices", "5", "7", "1", "2", "--seed", "3", "--batch_size", "3"]
    assert main(["latents", "walk", "--ckpt_path", str(models["StyleGAN2"]), "--out", str(out), *arguments]) == 0
    model = load(models["StyleGAN2"])
    assert isinstance(model, StyleGAN2)
    found = cells(out, 2, 5)
    for row, ends in enumerate(([5, 7], [1, 2])):
        z = model.draw_latents(ends, seed=3).double()
        label = model.sample_labels(ends[:1], seed=3).repeat(5)
        way = slerp(z[:1].expand(5, -1), z[1:].expand(5, -1), torch.arange(5) / 4).float()
        assert np.abs(found[row] - pixels(model.decode(way, label, settings=STILL))).max() <= 1
    protocol = json.loads((tmp_path / "new" / "strip.png.json").read_text())
    assert protocol["indices"] == [[5, 7], [1, 2]]
    assert protocol["space"] == "z"
    assert protocol["settings"]["noise"] == "const"


def test_a_strip_walks_on_a_straight_line_of_styles(models: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "strip.png"
    arguments = ["--space", "w", "--rows", "1", "--steps", "2", "--labels", "2", "--truncation_psi", "0.5"]
    assert main(["latents", "walk", "--ckpt_path", str(models["StyleGAN2"]), "--out", str(out), *arguments]) == 0
    model = load(models["StyleGAN2"])
    assert isinstance(model, StyleGAN2)
    half = StyleGAN2Settings(noise="const", truncation_psi=0.5)
    ws = model.to_w(model.draw_latents([0, 1]), torch.tensor([2, 2]), settings=half)
    middle = lerp(ws[:1], ws[1:], torch.tensor([0.5]))
    expected = pixels(model.from_w(torch.cat([ws[:1], middle, ws[1:]]), settings=STILL).detach().clamp(-1, 1))
    assert np.abs(cells(out, 1, 3)[0] - expected).max() <= 1


def test_an_animation_closes(models: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "loop.gif"
    arguments = ["--points", "3", "--steps", "4", "--rows", "4", "--fps", "10"]
    assert main(["latents", "walk", "--ckpt_path", str(models["DCGAN"]), "--out", str(out), *arguments]) == 0
    with Image.open(out) as gif:
        assert (gif.n_frames, gif.size, gif.info["duration"]) == (12, (38, 38), 100)  # type: ignore[attr-defined]
    assert json.loads((tmp_path / "loop.gif.json").read_text())["fps"] == 10


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "x.jpg"], "ending in .png, .gif, .mp4"),
        (["--out", "x.png", "--space", "w"], "DCGAN has no intermediate latents, w; leave out --space w"),
        (["--out", "x.png", "--rows", "2", "--indices", "1", "2", "3", "4", "5"], "--indices names 5 samples"),
        (["--out", "x.png", "--rows", "1", "--indices", "1", "-2"], "must not be negative"),
        (["--out", "x.gif", "--fps", "60"], "a GIF shows 50 frames a second at most"),
        (["--out", "x.png", "--truncation_psi", "0.5"], "DCGAN has no truncation_psi"),
        (["--out", "x.png", "--steps", "0"], "must be at least 1"),
    ],
)
def test_what_cannot_be_walked_is_one_line(
    arguments: list[str], said: str, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["latents", "walk", "--ckpt_path", str(models["DCGAN"]), *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


# mix


def test_a_sheet_has_each_rows_picture_with_its_columns_layers(models: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    arguments = ["--rows", "2", "--columns", "3", "--layers", "1-2", "--labels", "0", "1", "2"]
    assert main(["latents", "mix", "--ckpt_path", str(models["StyleGAN2"]), "--out", str(out), *arguments]) == 0
    model = load(models["StyleGAN2"])
    assert isinstance(model, StyleGAN2)
    ws = model.to_w(model.draw_latents(range(5)), torch.tensor([0, 1, 2, 0, 1]), settings=STILL)
    found = cells(out, 3, 4)
    assert (found[0, 0] == 0).all()
    sources = pixels(model.from_w(ws, settings=STILL).detach().clamp(-1, 1))
    assert np.abs(found[0, 1:] - sources[2:]).max() <= 1
    assert np.abs(found[1:, 0] - sources[:2]).max() <= 1
    for row in range(2):
        for column in range(3):
            w = ws[row].clone()
            w[1:3] = ws[2 + column, 1:3]
            expected = pixels(model.from_w(w[None], settings=STILL).detach().clamp(-1, 1))[0]
            assert np.abs(found[1 + row, 1 + column] - expected).max() <= 1
    assert json.loads((tmp_path / "sheet.png.json").read_text())["layers_of_columns"] == [1, 2]


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("DCGAN", [], "DCGAN has no intermediate latents, w to mix"),
        ("StyleGAN2", ["--layers", "fine"], "this model has layers 0 to 5"),
        ("StyleGAN2", ["--layers", "rough"], "give coarse, middle, fine, or layers such as 0-5 or 3"),
        ("StyleGAN2", ["--indices", "1", "2"], "--indices needs 4 + 6 numbers"),
    ],
)
def test_what_cannot_be_mixed_is_one_line(
    name: str, arguments: list[str], said: str, models: dict[str, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "sheet.png"
    assert main(["latents", "mix", "--ckpt_path", str(models[name]), "--out", str(out), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


# path_length


def test_path_lengths_of_both_spaces_are_figures_of_their_own(
    models: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))  # LPIPS's weights are not at hand
    found: dict[str, Any] = {}
    for space, sampling, batch in (("z", "full", "5"), ("w", "full", "12"), ("w", "end", "12"), ("z", "full", "12")):
        arguments = ["--space", space, "--sampling", sampling, "--num_samples", "12", "--resolution", "32"]
        arguments += ["--batch_size", batch, "--json"]
        assert main(["latents", "path_length", "--ckpt_path", str(models["StyleGAN2"]), *arguments]) == 0
        figures = json.loads(capsys.readouterr().out)["figures"]
        (name,) = figures
        if name in found:  # whatever the batch
            assert figures[name]["value"] == pytest.approx(found[name]["value"], rel=1e-2)
        found |= figures
    assert set(found) == {"ppl_effnet_z_full", "ppl_effnet_w_full", "ppl_effnet_w_end"}
    assert len({figure["value"] for figure in found.values()}) == 3
    assert all(figure["value"] > 0 for figure in found.values())
    protocol = found["ppl_effnet_w_end"]["protocol"]
    assert protocol["device"] == "cpu"
    assert (protocol["epsilon"], protocol["num_samples"], protocol["sampler"]["noise"]) == (1e-4, 12, "const")


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("DCGAN", ["--space", "w"], "DCGAN has no intermediate latents"),
        ("StyleGAN2", ["--noise", "random"], "--noise random differs between the ends of a step"),
        ("StyleGAN2", ["--precision", "bfloat16"], "rounds small steps away"),
        ("StyleGAN2", ["--epsilon", "0"], "--epsilon 0.0: take a number between 0 and 1"),
        ("StyleGAN2", ["--num_samples", "1"], "--num_samples must be at least 2"),
    ],
)
def test_what_has_no_path_length_is_one_line(
    name: str, arguments: list[str], said: str, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["latents", "path_length", "--ckpt_path", str(models[name]), *arguments]) == 2
    assert said in capsys.readouterr().err


# Sweeps.


def test_a_sweep_of_the_truncation_is_a_sheet_of_the_same_samples(models: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    arguments = ["--truncation_psi", "1", "0.5", "0", "--num", "4", "--labels", "1", "--noise", "none"]
    assert main(["sample", "--ckpt_path", str(models["StyleGAN2"]), "--out", str(out), *arguments]) == 0
    model, found = load(models["StyleGAN2"]), cells(out, 3, 4)
    for row, psi in enumerate((1.0, 0.5, 0.0)):
        settings = StyleGAN2Settings(truncation_psi=psi, noise="none")
        assert np.abs(found[row] - pixels(model.sample(range(4), [1] * 4, settings=settings))).max() <= 1
    assert (found[2] == found[2, :1]).all()  # the average alone
    assert json.loads((tmp_path / "sheet.png.json").read_text())["rows"] == {"truncation_psi": [1.0, 0.5, 0.0]}


def test_a_sweep_is_measured_row_by_row(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.yaml"
    data.write_text("class_path: datamodules.shapes.Shapes\ninit_args: {resolution: 32, train_size: 64, test_size: 16}")
    common = ["evaluate", "--ckpt_path", str(models["BigGAN"]), "--reference", str(data), "--num_samples", "16",
              "--metrics", "frechet", "precision_recall", "--resolution", "32",
              "--cache_dir", str(tmp_path / "cache")]  # fmt: skip
    assert main([*common, "--truncation", "2", "0.2"]) == 0
    table = capsys.readouterr().out
    assert main([*common, "--truncation", "0.2", "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)["figures"]["fd_effnet"]["value"]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    assert lines[0][:2] == ["truncation", "fd_effnet"]
    assert [line[0] for line in lines[2:]] == ["2", "0.2"]
    assert float(lines[3][1]) == pytest.approx(alone, rel=1e-4)
    assert float(lines[2][1]) != pytest.approx(alone, rel=1e-4)


def test_two_sweeps_at_once_are_refused(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--truncation_psi", "1", "0", "--truncation", "1", "2"]
    assert main(["sample", "--ckpt_path", str(models["StyleGAN2"]), "--out", str(tmp_path / "x.png"), *arguments]) == 2
    assert "only one of them can have several values" in capsys.readouterr().err

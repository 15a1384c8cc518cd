"""`latents project` and `latents directions`, on models that were not trained."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from commands.options.latents import read_projection
from main import main
from media.pictures import save_png, to_uint8
from metrics.latent_directions import deviations, factorized, principal
from models import load
from models.biggan import BigGAN
from models.dcgan import DCGAN
from models.stylegan2 import StyleGAN2
from settings.sampling import StyleGAN2Settings
from tests.commands.conftest import bytes_of, cells, pixels, saved

STILL = StyleGAN2Settings(noise="const")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints by family, with a sample of each as a picture that it can draw: <family>.png."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    styled = StyleGAN2((3, 16, 16), 0, channel_base=64, channel_max=8, latent_dim=6, w_dim=5, mapping_layers=2,
                       minibatch_group=2)  # fmt: skip
    for name, value in styled.state_dict().items():
        if name.endswith("noise_strength"):
            value.fill_(0.1)
    plain = DCGAN((1, 16, 16), 2, width=4, latent_dim=6, conditional=True)
    for layer in plain.average.module.modules():
        if isinstance(layer, torch.nn.ConvTranspose2d):
            torch.nn.init.normal_(layer.weight, 0, 0.2)  # initial weights draw pictures that hardly differ
    found = {"StyleGAN2": saved(styled, folder / "stylegan2.ckpt"), "DCGAN": saved(plain, folder / "dcgan.ckpt")}
    save_png(to_uint8(styled.sample([1000], settings=STILL))[0], folder / "stylegan2.png")
    save_png(to_uint8(plain.sample([1000], [1]))[0], folder / "dcgan.png")
    return found


def project(models: dict[str, Path], name: str, out: Path, *more: str) -> int:
    target = models[name].with_suffix(".png")
    return main(["latents", "project", "--ckpt_path", str(models[name]), "--target", str(target), "--out", str(out),
                 "--distance", "effnet", "--resolution", "32", "--average_of", "50", *more])  # fmt: skip


# The contract.


def test_a_gan_decodes_with_a_graph() -> None:
    torch.manual_seed(0)
    for model in (DCGAN((1, 16, 16), width=4, latent_dim=6), BigGAN((3, 32, 32), 3, width=4, latent_dim=6)):
        z = model.draw_latents([3]).requires_grad_(True)
        picture = model.decode_with_graph(z)
        assert torch.equal(picture, model.decode(z))
        assert not model.decode(z).requires_grad
        (gradient,) = torch.autograd.grad(picture.sum(), z)
        assert gradient.abs().max() > 0


# project


@pytest.mark.parametrize("space", ["w", "w+"])
def test_a_style_is_found_and_kept(models: dict[str, Path], space: str, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    assert project(models, "StyleGAN2", out, "--space", space, "--steps", "60") == 0
    assert {file.name for file in out.iterdir()} == {"target.png", "projected.png", "projection.gif", "latent.npz"}
    assert (bytes_of(out / "target.png") == bytes_of(models["StyleGAN2"].with_suffix(".png"))).all()
    model = load(models["StyleGAN2"])
    assert isinstance(model, StyleGAN2)
    found = read_projection(out / "latent.npz", model)
    assert found.protocol["distance_last"] < 0.5 * found.protocol["distance_first"]
    assert (found.point == found.point[:, :1]).all() == (space == "w")
    for noise in found.noises:
        assert float(noise.square().mean()) == pytest.approx(1, rel=1e-3)
    drawn = pixels(model.from_w(found.point, noise=found.noises).detach().clamp(-1, 1))[0]
    assert np.abs(drawn - bytes_of(out / "projected.png")).max() <= 1
    with Image.open(out / "projection.gif") as gif:
        assert (gif.n_frames, gif.size) == (61, (38, 20))  # type: ignore[attr-defined]


def test_without_noise_the_style_alone_is_moved(models: dict[str, Path], tmp_path: Path) -> None:
    assert project(models, "StyleGAN2", tmp_path, "--noise", "none", "--steps", "3") == 0
    found = read_projection(tmp_path / "latent.npz", load(models["StyleGAN2"]))
    assert found.noises == []
    assert found.protocol["noise_weight"] is None


def test_a_latent_is_found_where_there_are_no_styles(models: dict[str, Path], tmp_path: Path) -> None:
    assert project(models, "DCGAN", tmp_path, "--steps", "60", "--label", "1") == 0
    model = load(models["DCGAN"])
    assert isinstance(model, DCGAN)
    found = read_projection(tmp_path / "latent.npz", model)
    assert (found.space, found.label, found.noises) == ("z", 1, [])
    assert found.protocol["distance_last"] < 0.5 * found.protocol["distance_first"]
    drawn = pixels(model.decode(found.point, torch.tensor([1])))[0]
    assert np.abs(drawn - bytes_of(tmp_path / "projected.png")).max() <= 1


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("DCGAN", ["--space", "w"], "DCGAN has no intermediate latents, w; leave out --space"),
        ("DCGAN", ["--label", "2"], "labels must lie in 0..1"),
        ("StyleGAN2", ["--label", "1"], "is unconditional and takes no labels"),
        ("StyleGAN2", ["--noise", "random"], "a projection finds the noise itself"),
        ("StyleGAN2", ["--precision", "bfloat16"], "rounds small steps away"),
        ("StyleGAN2", ["--steps", "0"], "--steps must be at least 1"),
        ("StyleGAN2", ["--lr", "nan"], "--lr must be a number above 0"),
        ("StyleGAN2", ["--target", "nowhere.png"], "--target nowhere.png: no such file"),
        ("StyleGAN2", ["--target", "broken.png"], "broken.png: cannot be used"),
    ],
)
def test_what_cannot_be_projected_is_one_line(
    name: str, arguments: list[str], said: str, models: dict[str, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("broken.png").write_bytes(b"\x89PNG but not for long")
    assert project(models, name, tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


# directions


def test_rows_are_sefas_directions_of_the_chosen_layers(models: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "new" / "sheet.png"
    arguments = ["--number", "2", "--columns", "3", "--range", "2", "--layers", "1-3", "--index", "4"]
    assert main(["latents", "directions", "--ckpt_path", str(models["StyleGAN2"]), "--out", str(out), *arguments,
                 "--num_samples", "40", "--batch_size", "4"]) == 0  # fmt: skip
    model = load(models["StyleGAN2"])
    assert isinstance(model, StyleGAN2)
    network: Any = model.average.module
    blocks = network.synthesis.blocks
    affines = [layer.affine for layer in (blocks[1].conv0, blocks[1].conv1, blocks[2].conv0)]
    directions, _ = factorized(torch.cat([affine.weight.detach() * affine.scale for affine in affines]), 2)
    spread = deviations(model.to_w(model.draw_latents(range(40)))[:, 0], directions)
    source = model.to_w(model.draw_latents([4]), settings=STILL)
    found = cells(out, 2, 3)
    for row in range(2):
        for column, amount in enumerate((-2, 0, 2)):
            ws = source.clone()
            ws[:, 1:4] += (amount * spread[row] * directions[row]).float()
            expected = pixels(model.from_w(ws, settings=STILL).detach().clamp(-1, 1))[0]
            assert np.abs(found[row, column] - expected).max() <= 1
    assert (found[:, 0] != found[:, 2]).any()
    protocol = json.loads((tmp_path / "new" / "sheet.png.json").read_text())
    assert (protocol["of"], protocol["layers"], protocol["amounts"]) == ("sefa", [1, 3], [-2, 0, 2])


def test_a_projected_picture_is_edited_along_principal_components(models: dict[str, Path], tmp_path: Path) -> None:
    assert project(models, "StyleGAN2", tmp_path, "--steps", "5") == 0
    out = tmp_path / "sheet.png"
    arguments = ["--of", "pca", "--latent", str(tmp_path / "latent.npz"), "--number", "2", "--columns", "3"]
    assert main(["latents", "directions", "--ckpt_path", str(models["StyleGAN2"]), "--out", str(out), *arguments,
                 "--num_samples", "40"]) == 0  # fmt: skip
    model = load(models["StyleGAN2"])
    assert isinstance(model, StyleGAN2)
    found, projection = cells(out, 2, 3), read_projection(tmp_path / "latent.npz", model)
    assert np.abs(found[:, 1] - bytes_of(tmp_path / "projected.png")).max() <= 1
    directions, variances = principal(model.to_w(model.draw_latents(range(40)))[:, 0], 2)
    moved = projection.point + (3 * variances.sqrt()[1] * directions[1]).float()
    expected = pixels(model.from_w(moved, noise=projection.noises).detach().clamp(-1, 1))[0]
    assert np.abs(found[1, 2] - expected).max() <= 1


def test_latents_of_a_first_layer_have_directions_too(models: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    arguments = ["--number", "2", "--columns", "3", "--label", "1", "--num_samples", "40"]
    assert main(["latents", "directions", "--ckpt_path", str(models["DCGAN"]), "--out", str(out), *arguments]) == 0
    model = load(models["DCGAN"])
    assert isinstance(model, DCGAN)
    network: Any = model.average.module
    first = network.layers[0].weight.detach()[:6]  # without those of the classes
    directions, _ = factorized(first.flatten(1).T, 2)
    spread = deviations(model.draw_latents(range(40)), directions)
    z = model.draw_latents([0]) + (3 * spread[1] * directions[1]).float()
    assert np.abs(cells(out, 2, 3)[1, 2] - pixels(model.decode(z, torch.tensor([1])))[0]).max() <= 1


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("DCGAN", ["--of", "pca"], "DCGAN's latents have the same deviation in all directions; leave out --of pca"),
        ("DCGAN", ["--layers", "coarse"], "DCGAN has no styles"),
        ("DCGAN", ["--number", "7"], "7 directions were requested; this space has 1 to 6"),
        ("StyleGAN2", ["--layers", "5"], "only to_rgb reads this style"),
        ("StyleGAN2", ["--layers", "6"], "this model has layers 0 to 5"),
        ("StyleGAN2", ["--range", "0"], "--range 0.0: take a number above 0"),
        ("StyleGAN2", ["--latent", "nowhere.npz"], "nowhere.npz: no such file"),
        ("StyleGAN2", ["--latent", "broken.npz"], "broken.npz is not a projection"),
        ("StyleGAN2", ["--latent", "other.npz"], "other.npz: z of shape (1, 6) belongs to another model"),
        ("StyleGAN2", ["--latent", "pickled.npz"], "pickled.npz is not a projection"),
        ("StyleGAN2", ["--out", "x.gif"], "name a file ending in .png"),
    ],
)
def test_what_has_no_directions_is_one_line(
    name: str, arguments: list[str], said: str, models: dict[str, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("broken.npz").write_bytes(b"PK\x03\x04 and no more")
    np.savez("other.npz", z=np.zeros((1, 6), np.float32), label=np.array(0), protocol=np.array("{}"))
    np.savez("pickled.npz", w=np.array([print], dtype=object), label=np.array(0), protocol=np.array("{}"))
    out = tmp_path / "sheet.png"
    common = ["latents", "directions", "--ckpt_path", str(models[name]), "--out", str(out), "--num_samples", "40"]
    assert main([*common, *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert not out.exists()

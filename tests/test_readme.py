"""The README's commands, word for word and in order, on budgets and networks small enough for a test."""

import gzip
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image

from datamodules import fashion_mnist
from datamodules.fashion_mnist import EXCERPT, find_idx, read_idx
from main import main

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text()
COMMANDS = [
    shlex.split(command)[2:]
    for block in re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    for command in re.findall(r"python main\.py [^&\n]+", block)
]
QUICK = ["--quality.num_samples", "16", "--quality.resolution", "32", "--run.wandb", "off", "--model.width", "8",
         "--trainer.accelerator", "cpu"]  # fmt: skip


def shortened(arguments: list[str]) -> list[str]:
    """A command with what makes it quick; the resumed run gets a larger budget than the one it goes on with."""
    verb = arguments[0]
    if verb == "fit" and "--print_config" not in arguments:
        return [*QUICK, "--budget.kimg", "0.384" if "--ckpt_path" in arguments else "0.256"]
    measured = ["--num_samples", "16", "--resolution", "32"]
    if verb == "latents":
        return {"path_length": measured, "walk": ["--steps", "2"]}[arguments[1]]
    return {"validate": QUICK, "evaluate": measured, "diagnose": measured}.get(verb, [])


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the configs and one of faces; a download of Fashion-MNIST brings a few of its pictures."""
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")

    def download(root: str, download: bool) -> None:
        for split in ("train", "t10k"):
            for kind, dimensions in (("images-idx3", 3), ("labels-idx1", 1)):
                source = find_idx(EXCERPT, f"train-{kind}-ubyte")
                assert source is not None
                values = read_idx(source)[:200].numpy()
                header = bytes([0, 0, 8, dimensions]) + np.array(values.shape, dtype=">i4").tobytes()
                (Path(root) / f"{split}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + values.tobytes()))

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", download)
    faces = tmp_path / "data" / "celeba"
    faces.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 218, 178, 3), dtype=np.uint8)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(faces / f"{i}.png")
    return tmp_path


def test_the_commands_of_the_readme(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = [arguments for arguments in COMMANDS if "configs/dcgan_cifar10.yaml" not in arguments]
    if importlib.util.find_spec("onnxscript") is None or importlib.util.find_spec("onnxruntime") is None:
        commands = [arguments for arguments in commands if not arguments[-1].endswith(".onnx")]
    assert len(commands) >= 13
    for arguments in commands:
        if "--print_config" in arguments:
            with pytest.raises(SystemExit) as stop:
                main(arguments)
            assert stop.value.code in (0, None)
        else:
            assert main([*arguments, *shortened(arguments)]) == 0, (arguments, capsys.readouterr().err)
    assert len(list((workplace / "samples").glob("*.png"))) == 100 + 4
    assert len(list((workplace / "runs" / "dcgan_fashion_mnist").iterdir())) == 1


def test_the_command_for_cifar10(workplace: Path) -> None:
    unpack = REPOSITORY.parent / "shared" / "data" / "unpack.py"
    if not unpack.exists():
        pytest.skip("CIFAR-10's official batches are not here")
    subprocess.run([sys.executable, str(unpack), "data"], check=True)
    (arguments,) = [arguments for arguments in COMMANDS if "configs/dcgan_cifar10.yaml" in arguments]
    assert main([*arguments, *shortened(arguments), "--quality.reference_samples", "64"]) == 0


def test_links_lead_somewhere() -> None:
    for page in (REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"

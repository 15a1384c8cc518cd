"""Classes in a file of the user's own, outside the project; and that no checkpoint has one imported by naming it."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from main import main
from tests.commands.conftest import checkpoint, only_run, record

MINE = '''
"""Everything that a config can name, in one file."""

from pathlib import Path

from datamodules.shapes import Shapes
from models.dcgan import DCGAN
from models.parts.augment.diffaugment import DiffAugment
from models.parts.losses import Hinge
from models.parts.regularizers import R1
from models.parts.schedules import Cosine

(Path(__file__).parent / "trace").touch()

class MyGAN(DCGAN): ...
class MyLoss(Hinge): ...
class MyPenalty(R1): ...
class MyAugmentation(DiffAugment): ...
class MySchedule(Cosine): ...
class MyData(Shapes): ...
'''

CONFIG = """
model:
  class_path: {module}.MyGAN
  init_args:
    width: 8
    latent_dim: 8
    adversarial:
      loss: {module}.MyLoss
      regularizers: [{{class_path: {module}.MyPenalty, init_args: {{gamma: 0.1}}}}]
      augmentation: {{class_path: {module}.MyAugmentation, init_args: {{policy: [colour]}}}}
      lr: {{class_path: {module}.MySchedule, init_args: {{start: 1e-3, end: 1e-4, kimg: 1}}}}
data: {{class_path: {module}.MyData, init_args: {{resolution: 16, train_size: 50, test_size: 20, batch_size: 8}}}}
trainer: {{accelerator: cpu, devices: 1, precision: 32-true}}
run: {{root: runs, wandb: "off"}}
budget: {{kimg: 0.016}}
quality: {{every_kimg: 1, num_samples: 16, resolution: 32, cache_dir: {cache}}}
samples: {{rows: 2, columns: 2}}
"""


@pytest.fixture
def forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Forgets the user's modules and where they lie, as a new process would not know them; so does the test's end."""
    before = [*sys.path]
    monkeypatch.setattr(sys, "path", [*before])

    def forget() -> None:
        sys.path[:] = before
        for name in ("my_models", "mine", "mine.nets"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()

    yield forget
    forget()


@pytest.fixture
def place(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, forget: Callable[[], None]) -> Path:
    """The working directory, with a run config of the user's own classes; not the file that holds them."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("small.yaml").write_text(CONFIG.format(module="my_models", cache=cache))
    return tmp_path / "here"


def test_a_file_in_the_working_directory_serves_every_verb(
    place: Path, forget: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "my_models.py").write_text(MINE)
    assert main(["fit", "--config", "small.yaml"]) == 0
    run = only_run(place / "small.yaml")
    assert checkpoint(run)["atelier"]["model"]["class_path"] == "my_models.MyGAN"
    adversarial = record(run)["model"]["init_args"]["adversarial"]["init_args"]
    assert adversarial["loss"]["class_path"] == "my_models.MyLoss"
    assert adversarial["regularizers"][0]["class_path"] == "my_models.MyPenalty"
    assert adversarial["augmentation"]["class_path"] == "my_models.MyAugmentation"
    assert adversarial["lr"]["class_path"] == "my_models.MySchedule"
    assert record(run)["data"]["class_path"] == "my_models.MyData"

    evaluation = ["--num_samples", "16", "--resolution", "32", "--metrics", "frechet", "--cache_dir", str(place)]
    commands = [
        ["sample", "--ckpt_path", str(run), "--out", "grid.png", "--num", "4"],
        ["evaluate", "--ckpt_path", str(run), *evaluation],
        ["evaluate", "--samples", "small.yaml", "--reference", str(run / "config.yaml"), *evaluation],
    ]
    for verb, *words in commands:
        forget()
        (place / "trace").unlink(missing_ok=True)
        capsys.readouterr()
        assert main([verb, *words]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "my_models.My" in line
        assert line.endswith("if it is yours, add --import my_models.py")
        assert not (place / "trace").exists(), "what a checkpoint or a config beside it names does not run"
        assert main([verb, "--import", "my_models.py", *words]) == 0, capsys.readouterr().err
        assert (place / "trace").exists()
    forget()
    assert main(["fit", "--config", "small.yaml", "--ckpt_path", "last", "--budget.kimg", "0.032"]) == 0


@pytest.mark.parametrize("folder", ["here", "there"])
def test_a_file_is_found_in_the_working_directory_or_beside_the_config(folder: str, place: Path, cache: Path) -> None:
    """A package too; without any file, the module is named."""
    beside = place.parent / folder
    (beside / "mine").mkdir(parents=True)
    (beside / "mine" / "nets.py").write_text(MINE)
    config = beside / "package.yaml"
    config.write_text(CONFIG.format(module="mine.nets", cache=cache))
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(config), "--print_config"])
    assert sys.modules["mine.nets"].__file__ == str(beside / "mine" / "nets.py")
    assert sys.path[0] != str(beside), "it goes before nothing that is installed"


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("nowhere.py", None, "--import nowhere.py: no such file"),
        ("my_models.py", "1 / 0", "--import my_models.py: ZeroDivisionError: division by zero"),
        ("my_models.py", "from models.dcgan import DCGAM", "--import my_models.py: ImportError: cannot import name"),
        ("models.py", "", "--import models.py: another module is named models already; rename the file"),
        ("mine.nets", None, "--import mine.nets: ModuleNotFoundError: No module named 'mine'"),
    ],
)
def test_what_cannot_be_imported_is_one_line(
    file: str, text: str | None, said: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (place / file).write_text(text)
    assert main(["runs", "list", f"--import={file}"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {said}")

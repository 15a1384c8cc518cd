"""`fit --init_from`: a run that begins with another's weights, and says what it took of them."""

from pathlib import Path

import pytest
import torch

from main import main
from models.dcgan import DCGAN
from tests.commands.conftest import Run, checkpoint, only_run, record


def without_optimizers(folder: Path, path: Path) -> Path:
    """A checkpoint as an import leaves it, with an origin."""
    content = checkpoint(folder)
    for key in ("optimizer_states", "lr_schedulers", "loops", "callbacks"):
        content.pop(key, None)
    content["atelier"]["origin"] = {"code": "theirs", "licence": "strict"}
    torch.save(content, path)
    return path


def test_a_run_begins_with_the_weights_of_another(
    fit: Run, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("--budget.kimg", 0.008) == 0
    start = without_optimizers(only_run(config), tmp_path / "x.ckpt")
    weights = torch.load(start, weights_only=True)["state_dict"]
    capsys.readouterr()
    code = fit("--init_from", start, "--run.name", "tuned", "--budget.kimg", 0.008, "--seed_everything", 3,
               "--model.adversarial.lr", 0.0, "--model.adversarial.ema_halflife_kimg", 1e9)  # fmt: skip
    assert code == 0
    err = capsys.readouterr().err
    assert f"weights of {start}" in err
    assert err.index("taken: ") < err.index("kimg [")
    (folder,) = (tmp_path / "runs" / "tuned").iterdir()
    run, content = record(folder), checkpoint(folder)
    assert run["init_from"] == {"path": str(start), "taken": len(weights)}
    assert run["origin"] == content["atelier"]["origin"] == {"code": "theirs", "licence": "strict"}
    assert (run["samples_seen"], content["atelier"]["training_seed"], content["global_step"]) == (8, 3, 1)
    names = [name for name, _ in DCGAN((3, 16, 16), width=8, latent_dim=8).named_parameters()]
    assert all(torch.equal(content["state_dict"][name], weights[name]) for name in names)  # a step at rate 0 later
    assert fit("--ckpt_path", "last", "--run.name", "tuned", "--budget.kimg", 0.016, "--seed_everything", 3,
               "--model.adversarial.lr", 0.0, "--model.adversarial.ema_halflife_kimg", 1e9) == 0  # fmt: skip
    assert record(folder)["init_from"] == run["init_from"]
    capsys.readouterr()
    assert main(["compare", str(folder)]) == 0
    assert f"| {start} " in capsys.readouterr().out  # what it began with


def test_another_resolution_says_what_was_left(
    fit: Run, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("--budget.kimg", 0.008) == 0
    start = only_run(config) / "checkpoints" / "last.ckpt"
    capsys.readouterr()
    assert fit("--init_from", start, "--run.name", "larger", "--budget.kimg", 0.008, "--data.resolution", 32) == 0
    err = capsys.readouterr().err
    assert "left as initialised:" in err
    (folder,) = (tmp_path / "runs" / "larger").iterdir()
    kept = record(folder)["init_from"]
    assert "discriminator.layers.0.weight" not in kept["left"]  # next to the picture, which has as many channels
    assert "generator.layers.0.weight" in kept["left"]


def test_what_cannot_be_done_is_one_line(
    fit: Run, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("--budget.kimg", 0.008) == 0
    folder = only_run(config)
    start = folder / "checkpoints" / "last.ckpt"
    capsys.readouterr()

    def refused(*arguments: object) -> str:
        assert fit(*arguments) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        return line

    assert "leave one out" in refused("--init_from", start, "--ckpt_path", start)
    assert "no checkpoint at" in refused("--init_from", tmp_path / "none.ckpt")
    line = refused("--init_from", start, "--model.width", 4, "--model.latent_dim", 4)
    assert str(start) in line
    assert "none of its weights" in line
    imported = without_optimizers(folder, tmp_path / "x.ckpt")
    assert "fit --init_from" in refused("--ckpt_path", imported)
    assert len(list((tmp_path / "runs" / "small").iterdir())) == 1  # no run began


def test_a_runs_config_serves_every_verb(fit: Run, config: Path, tmp_path: Path) -> None:
    assert fit("--init_from=null", "--budget.kimg", 0.008) == 0
    start = only_run(config) / "checkpoints" / "last.ckpt"
    assert fit("--init_from", start, "--run.name", "tuned", "--budget.kimg", 0.008) == 0
    (folder,) = (tmp_path / "runs" / "tuned").iterdir()
    again = ["--config", str(folder / "config.yaml")]
    assert main(["validate", *again, "--ckpt_path", str(folder / "checkpoints" / "last.ckpt")]) == 0
    assert main(["fit", *again, "--run.name", "again"]) == 0  # begins as that run did
    (other,) = (tmp_path / "runs" / "again").iterdir()
    assert record(other)["init_from"] == record(folder)["init_from"]

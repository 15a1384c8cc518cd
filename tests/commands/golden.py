"""Runs' folders that `fit` itself left, with values that tests know by hand in place of what was measured."""

import dataclasses
import functools
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from callbacks.checkpoints import checkpoint_name
from callbacks.run import kimg_name
from main import main
from records.figures import Best, Direction, FigureRecord
from records.run import MemoryUse, RunRecord, Speed

CONFIG: dict[str, Any] = {
    "model": {"class_path": "models.dcgan.DCGAN",
              "init_args": {"width": 8, "latent_dim": 8, "adversarial": {"lr": 2e-4, "ema_halflife_kimg": 0.05}}},
    "data": {"class_path": "datamodules.shapes.Shapes",
             "init_args": {"resolution": 16, "train_size": 50, "test_size": 20, "batch_size": 8}},
    "trainer": {"accelerator": "cpu", "devices": 1, "precision": "32-true"},
    "run": {"wandb": "off", "id": "1"},
    "budget": {"kimg": 0.016},
    "quality": {"num_samples": 16, "resolution": 32},
}  # fmt: skip
VAE = {"class_path": "models.vae.VAE", "init_args": {"width": 4, "latent_dim": 4, "blocks": 1}}


@functools.cache
def golden(name: str = "gan") -> Path:
    """The folder of a run of 16 samples, fitted once a process: of a GAN, or of a model with a likelihood, "vae"."""
    folder = Path(tempfile.mkdtemp(prefix="golden-"))
    own = {"run": {**CONFIG["run"], "root": str(folder), "name": name},
           "quality": {**CONFIG["quality"], "cache_dir": str(folder / "cache")},
           **({"model": VAE} if name == "vae" else {})}  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **own}))
    assert main(["fit", "--config", str(folder / "config.yaml")]) == 0
    return folder / name / "1"


@functools.cache
def golden_record(name: str = "gan") -> RunRecord:
    return RunRecord.read(golden(name) / "run.json", "run's record")


def _figure(value: float | None, better: Direction | None, protocol: dict[str, Any]) -> dict[str, Any]:
    best = None if value is None else Best(value, 2000)
    return FigureRecord(value, protocol, better, None, 2000, best).to_json()


def figure(value: float | None, better: Direction | None = "lower", **protocol: object) -> dict[str, Any]:
    """A figure as run.json has it, of 2,048 samples; further arguments change the protocol."""
    own = golden_record().figures["fd_effnet"].protocol
    return _figure(value, better, {**own, "num_samples": 2048, **protocol})


def bits(value: float, kind: str = "exact") -> dict[str, Any]:
    """A likelihood's figure."""
    own = golden_record("vae").figures["bits_per_dim"].protocol
    return _figure(value, "lower", {**own, "likelihood": kind})


def _full(value: object) -> object:
    """Without what is empty, which records leave out."""
    if isinstance(value, dict):
        return {key: _full(item) for key, item in value.items() if item not in (None, [], {}, "")} or None
    return [_full(item) for item in value] if isinstance(value, list) else value


def make_run(
    folder: Path,
    fd: float | None = 300.0,
    seed: int = 0,
    lr: float = 2e-4,
    figures: Mapping[str, Any] | None = None,
    rows: Sequence[Mapping[str, Any]] | None = None,
    **fields: Any,  # noqa: ANN401 - of run.json, as JSON has them
) -> Path:
    """A finished run of 2 kimg in `folder`, runs/<name>/<id>; further arguments replace fields of run.json."""
    shutil.copytree(golden(), folder, ignore=shutil.ignore_patterns("*.ckpt", "*.png"))
    record = dataclasses.replace(
        golden_record(),
        id=folder.name,
        name=folder.parent.name,
        parameters={"generator": 146032, "discriminator": 44640},
        data=dataclasses.replace(golden_record().data, train_size=10000, data_shape=[1, 32, 32]),
        samples_seen=2000,
        devices=2,
        hardware=dataclasses.replace(golden_record().hardware, cpu="AMD EPYC", cores=2),
        precision="bf16-mixed",
        commit="1581995240cbc0f4e8fd9c8b51d4b981fec3ef60+",
        seconds=1800.0,
        memory=MemoryUse(
            "resident set",
            {"D step": 1.1076, "metrics": 1.2057},
            {"parameters": 2**20, "optimizer state": 2**21, "activations, D step": 2**22},
        ),
        throughput=Speed(249.6, 4.006),
        figures={},
    ).to_json()
    record |= {"figures": {"fd_effnet": figure(fd)} if figures is None else dict(figures), **fields}
    known = RunRecord.from_json(record).to_json()
    made_up = {name: value for name, value in fields.items() if _full(value) != _full(known.get(name))}
    assert not made_up, "run.json has no such thing"
    (folder / "run.json").write_text(json.dumps(record))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["seed_everything"] = seed
    config["model"]["init_args"]["adversarial"]["init_args"]["lr"] = lr
    config["run"]["name"] = folder.parent.name
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    if rows is None:
        rows = [
            {"samples_seen": 500 * i, "seconds": 450.0 * i, "g_loss": 2.0 / i, "fd_effnet": (fd or 300.0) * 4 / i}
            for i in range(1, 5)
        ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for kimg in range(3):
        Image.new("L", (16, 16), 100 * kimg).save(folder / "samples" / f"{kimg_name(1000 * kimg)}.png")
    checkpoint = folder / "checkpoints" / checkpoint_name(2000)
    checkpoint.write_bytes(b"x" * 1_000_000)
    (folder / "checkpoints" / "last.ckpt").hardlink_to(checkpoint)
    return folder

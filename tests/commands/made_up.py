"""Runs' folders as a fit leaves them, with made-up values: of schema 1, so that they hold what a real one holds."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

PROTOCOL: dict[str, Any] = {
    "extractor": "EffNet",
    "weights_sha256": "5793" * 16,
    "resolution": 64,
    "resize": "bicubic",
    "precision": "float32",
    "data": "6880" * 16,
    "reference": "train",
    "reference_samples": 10000,
    "num_samples": 2048,
    "seed": 0,
    "sampler": {"weights": "ema", "precision": "float32", "truncation": None},
}
LIKELIHOOD: dict[str, Any] = {
    "likelihood": "exact",
    "data": "6880" * 16,
    "data_shape": [1, 32, 32],
    "reference": "test",
    "reference_samples": 1000,
    "seed": 0,
    "settings": {"weights": "ema", "precision": "float32", "draws": 1},
}


def figure(value: float | None, better: str | None = "lower", **protocol: object) -> dict[str, Any]:
    """A figure as run.json has it; further arguments change the protocol."""
    return {"value": value, "samples_seen": 2000, "better": better, "protocol": {**PROTOCOL, **protocol},
            "best": {"value": value, "samples_seen": 2000}}  # fmt: skip


def bits(value: float, kind: str = "exact") -> dict[str, Any]:
    """A likelihood's figure."""
    return {**figure(value), "protocol": {**LIKELIHOOD, "likelihood": kind}}


def make_run(
    folder: Path,
    fd: float | None = 300.0,
    seed: int = 0,
    lr: float = 2e-4,
    figures: Mapping[str, Any] | None = None,
    rows: Sequence[Mapping[str, Any]] | None = None,
    **fields: object,
) -> Path:
    """A finished run of 2 kimg in `folder`, runs/<name>/<id>; further arguments replace fields of run.json."""
    for part in ("checkpoints", "samples"):
        (folder / part).mkdir(parents=True)
    record: dict[str, Any] = {
        "schema": 1,
        "id": folder.name,
        "name": folder.parent.name,
        "status": "done",
        "started": "2026-11-22T19:15:48+00:00",
        "model": {"class_path": "models.dcgan.DCGAN", "init_args": {"width": 8}},
        "parameters": {"generator": 146032, "discriminator": 44640},
        "data": {"class_path": "datamodules.shapes.Shapes", "train_size": 10000, "fingerprint": "6880" * 16,
                 "data_shape": [1, 32, 32], "num_classes": 16},
        "samples_seen": 2000,
        "devices": 2,
        "hardware": {"device": "cpu", "gpu": None, "gpu_gib": None, "cpu": "AMD EPYC", "cores": 2, "threads": 2,
                     "memory_gib": 23.5, "system": "Linux x86_64"},
        "precision": "bf16-mixed",
        "versions": {"python": "3.11.7", "torch": "2.15.0", "lightning": "2.6.6"},
        "commit": "1581995240cbc0f4e8fd9c8b51d4b981fec3ef60+",
        "seconds": 1800.0,
        "memory": {"source": "resident set", "peak_gib": {"D step": 1.1076, "metrics": 1.2057},
                   "kept_bytes": {"parameters": 2**20, "optimizer state": 2**21, "activations, D step": 2**22}},
        "throughput": {"samples_per_s": 249.6, "s_per_kimg": 4.006},
        "figures": {"fd_effnet": figure(fd)} if figures is None else figures,
        "ended": "2026-11-22T19:45:48+00:00",
        "error": None,
        **fields,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    config = {
        "seed_everything": seed,
        "model": {"class_path": "models.dcgan.DCGAN", "init_args": {"width": 8, "adversarial": {"lr": lr}}},
        "run": {"root": "runs", "name": folder.parent.name},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    if rows is None:
        rows = [
            {"samples_seen": 500 * i, "seconds": 450.0 * i, "g_loss": 2.0 / i, "fd_effnet": (fd or 300.0) * 4 / i}
            for i in range(1, 5)
        ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for kimg in range(3):
        Image.new("L", (16, 16), 100 * kimg).save(folder / "samples" / f"kimg{kimg:010.3f}.png")
    checkpoint = folder / "checkpoints" / "kimg000002.000.ckpt"
    checkpoint.write_bytes(b"x" * 1_000_000)
    (folder / "checkpoints" / "last.ckpt").hardlink_to(checkpoint)
    return folder

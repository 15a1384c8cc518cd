"""`info`: what a checkpoint or a config is, and what training it takes on this machine."""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands.options.parsers import verb_parser

if TYPE_CHECKING:
    from callbacks.plan import Cost
    from models.training.base import GenerativeModel


def parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    parser = verb_parser("info", "Parameters by network, output, memory and time, measured by a few training steps.")
    parser.add_argument("path", type=Path, help="a checkpoint, a run's folder, or a run config")
    parser.add_argument("--batch_size", type=int, help="of a training step; the config's, or 64, where left out")
    parser.add_argument("--device", default="auto", help="cpu, gpu, ... as trainer.accelerator takes it (auto)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Prints the facts."""
    options = parser().parse_args(arguments)
    if not options.path.exists():
        raise FileNotFoundError(f"no checkpoint, run or config at {options.path}")

    from callbacks.plan import describe_cost
    from commands.options.checkpoints import checkpoint_at, origin_line
    from commands.options.command_line import TrainingCLI, as_input_errors, default_precision, quietly
    from models import load

    if options.path.suffix in (".yaml", ".yml"):
        with tempfile.TemporaryDirectory() as folder, as_input_errors(), quietly():
            cli = TrainingCLI(["fit", "--config", str(options.path), "--run.root", folder, "--run.wandb", "off"])
        model, precision, batch_size = cli.model, cli.arguments.trainer.precision, cli.datamodule.batch_size
    else:
        path = checkpoint_at(options.path)
        model, precision, batch_size = load(path), default_precision(options.device), batch_size_of(path)
    batch_size = options.batch_size or batch_size
    cost = measure(model, batch_size, options.device, precision)
    if options.json:
        print(json.dumps(as_json(model, cost, batch_size, precision), indent=2))
        return 0
    print(f"{type(model).__name__}, samples of {' x '.join(map(str, model.data_shape))}")
    facts = {
        "trained": f"{model.samples_seen / 1000:g} kimg",
        "classes": str(model.label_classes) if model.label_classes else "unconditional",
        **describe_cost(model, cost),
        "checkpoint": f"{cost.checkpoint_bytes / 1e6:.0f} MB",
        "measured": f"batch {model.samples_per_step(cost.samples_seen, batch_size)}, {precision}",
    }
    if model.origin is not None:
        facts["origin"] = origin_line(model.origin)
    if len(model.stage_starts) > 1:
        facts["measured"] += f", in the last of {len(model.stage_starts)} stages"
    for name, text in facts.items():
        print(f"  {name:<12} {text}")
    return 0


def measure(model: "GenerativeModel", batch_size: int, accelerator: str, precision: str) -> "Cost":
    """Trial training steps on noise, as `fit` runs them for its plan; of a model that grows, in its last stage."""
    import lightning

    from callbacks.plan import Trial
    from commands.options.command_line import quietly

    trial = Trial(batch_size)
    with quietly():
        trainer = lightning.Trainer(
            accelerator=accelerator,
            devices=1,
            precision=precision,  # type: ignore[arg-type]
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            max_epochs=-1,
            limit_val_batches=0,
            callbacks=[trial],
        )
        trainer.fit(model.train(), train_dataloaders=[0])
    assert trial.cost is not None
    return trial.cost


def batch_size_of(checkpoint: Path) -> int:
    """The batch size of the run that a checkpoint lies in; 64 where that is not known."""
    import yaml

    config = checkpoint.resolve().parent.parent / "config.yaml"
    try:
        return int(yaml.safe_load(config.read_text())["data"]["init_args"]["batch_size"])
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError):
        return 64


def as_json(model: "GenerativeModel", cost: "Cost", batch_size: int, precision: str) -> dict[str, Any]:
    """The facts as plain data."""
    return {
        "model": type(model).__name__,
        "data_shape": list(model.data_shape),
        "label_classes": model.label_classes,
        "samples_seen": model.samples_seen,
        "parameters": {name: sum(p.numel() for p in net.parameters()) for name, net in model.networks().items()},
        "batch_size": model.samples_per_step(cost.samples_seen, batch_size),
        "precision": precision,
        "device": str(model.device),
        "s_per_kimg": cost.seconds_per_kimg,
        "origin": model.origin,
        "peak_bytes": cost.peak_bytes or None,
        "peak_source": cost.peak_source,
        "checkpoint_bytes": cost.checkpoint_bytes,
    }

"""`info`: describes a checkpoint or a config, predicts the memory of its training, and can measure its time."""

import argparse
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands.options.parsers import add_device, require_least, verb_parser

if TYPE_CHECKING:
    import torch

    from callbacks.expected import Expected
    from callbacks.plan import Cost
    from models.training.base import GenerativeModel


def parser() -> argparse.ArgumentParser:
    parser = verb_parser(
        "info",
        "Shows parameters, output and predicted training memory, without data and without training. "
        "Flags of `fit` change a config: --model.width 32, --trainer.precision bf16-mixed.",
    )
    parser.add_argument("path", type=Path, nargs="?", help="a checkpoint, a run's folder, or a run config")
    parser.add_argument("--config", type=Path, action="append", default=[], help="a run config; later ones override it")
    parser.add_argument("--batch_size", type=int, help="of a training step (the config's, or 64)")
    parser.add_argument("--measure", action="store_true", help="measure time and memory of training steps on noise")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Prints the facts."""
    own, of_fit = split(arguments)
    options = parser().parse_args(own)
    configs: list[Path] = options.config
    if options.path is not None and options.path.suffix in (".yaml", ".yml"):
        configs.insert(0, options.path)
    elif (options.path is None) == (not configs):
        raise ValueError("give one of: a run config, a checkpoint, a run's folder")
    for path in configs or [options.path]:
        if not path.exists():
            raise FileNotFoundError(f"no checkpoint, run or config at {path}")
    if of_fit and not configs:
        raise ValueError(f"{of_fit[0]}: {options.path} is not a config; flags of fit apply to configs only")
    require_least(options, {"batch_size": 1})

    from commands.options.checkpoints import usable_device

    device = usable_device(options.device)
    if configs:
        model, precision, batch_size = of_config(configs, of_fit, device, with_weights=options.measure)
    else:
        model, precision, batch_size = of_checkpoint(options.path, device)
    batch_size = options.batch_size or batch_size
    counts = {name: sum(p.numel() for p in network.parameters()) for name, network in model.networks().items()}
    cost = measure(model, batch_size, device, precision) if options.measure else None
    facts = Facts(model, counts, batch_size, device, precision, cost, *predict(model, batch_size, precision))
    print(json.dumps(facts.as_json(), indent=2) if options.json else "\n".join(facts.lines()))
    return 0


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The verb's own arguments, and those of `fit`: unknown flags, each with its value."""
    known = {flag for action in parser()._actions for flag in action.option_strings}
    own, of_fit = [], []
    rest = iter(arguments)
    for word in rest:
        if word.startswith("--") and word.partition("=")[0] not in known:
            of_fit += [word] if "=" in word else [word, next(rest, "")]
        else:
            own.append(word)
    return own, of_fit


def of_config(
    configs: Sequence[Path], flags: Sequence[str], device: "torch.device", with_weights: bool
) -> "tuple[GenerativeModel, str, int]":
    """The model, precision and batch size of a config. Without weights, its tensors have shapes but no storage."""
    import torch
    from lightning.fabric.connector import _convert_precision_to_unified_args

    from commands.options.command_line import TrainingCLI, as_input_errors, quietly

    class Described(TrainingCLI):
        """Model and data, without the Trainer, whose devices are irrelevant here."""

        def instantiate_classes(self) -> None:
            # Only here: modules imported inside the context would keep tensors without storage.
            with contextlib.nullcontext() if with_weights else torch.device("meta"):
                super().instantiate_classes()

        def instantiate_trainer(self, **kwargs: Any) -> Any:  # noqa: ANN401 - Lightning's signature
            return None

    words = ["fit", *(f"--config={path}" for path in configs), f"--trainer.accelerator={accelerator_of(device)}"]
    with as_input_errors(), quietly():
        cli = Described([*words, *flags])
    precision = _convert_precision_to_unified_args(cli.arguments.trainer.precision)  # "32" is "32-true"
    return cli.model, str(precision), cli.datamodule.batch_size


def of_checkpoint(path: Path, device: "torch.device") -> "tuple[GenerativeModel, str, int]":
    """The model of a checkpoint, the precision of a fit on this device, and the batch size of its run."""
    from commands.options.checkpoints import checkpoint_at
    from commands.options.command_line import default_precision
    from models import load

    checkpoint = checkpoint_at(path)
    return load(checkpoint), default_precision(accelerator_of(device)), batch_size_of(checkpoint)


def accelerator_of(device: "torch.device") -> str:
    """The Trainer's name for a kind of device."""
    return "gpu" if device.type == "cuda" else device.type


def predict(model: "GenerativeModel", batch_size: int, precision: str) -> "tuple[Expected | None, str]":
    """The expected memory of a training step, or None and the reason. Destroys the model's weights."""
    from callbacks.expected import expected_memory
    from commands.options.command_line import quietly
    from commands.options.errors import one_line

    try:
        with quietly():
            return expected_memory(model, batch_size, precision), ""
    except (RuntimeError, ValueError, AssertionError) as error:  # torch asserts what it cannot do
        return None, one_line(error)[:200]


def measure(model: "GenerativeModel", batch_size: int, device: "torch.device", precision: str) -> "Cost":
    """Runs trial steps on noise, as `fit` does for its plan; the last stage of a model that grows."""
    import lightning

    from callbacks.plan import SILENT, Trial
    from commands.options.command_line import quietly

    trial = Trial(batch_size)
    devices: int | list[int] = 1 if device.type != "cuda" else [device.index or 0]
    kind: Any = precision  # a literal type of Lightning's
    with quietly():
        trainer = lightning.Trainer(
            accelerator=accelerator_of(device), devices=devices, precision=kind, callbacks=[trial], **SILENT
        )
        trainer.fit(model.train(), train_dataloaders=[0])
    assert trial.cost is not None
    return trial.cost


def batch_size_of(checkpoint: Path) -> int:
    """The batch size of the run that a checkpoint belongs to; 64 if unknown."""
    import yaml

    config = checkpoint.resolve().parent.parent / "config.yaml"
    try:
        return int(yaml.safe_load(config.read_text())["data"]["init_args"]["batch_size"])
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError):
        return 64


@dataclass(frozen=True)
class Facts:
    """Everything that the verb shows."""

    model: "GenerativeModel"
    counts: dict[str, int]
    """Parameters by network."""
    batch_size: int
    device: "torch.device"
    precision: str
    cost: "Cost | None"
    """As measured."""
    expected: "Expected | None"
    """As predicted."""
    why_not: str
    """Why there is no prediction."""

    def lines(self) -> list[str]:
        """The facts in words, each marked as predicted or measured."""
        from callbacks.memory import GIB
        from callbacks.plan import describe_cost
        from commands.options.checkpoints import origin_line

        model, expected = self.model, self.expected
        facts = {
            "trained": f"{model.samples_seen / 1000:g} kimg",
            "classes": str(model.label_classes) if model.label_classes else "unconditional",
            "parameters": ", ".join(f"{name} {count:,}" for name, count in self.counts.items()),
        }
        stages = f", in the last of {len(model.stage_starts)} stages" if len(model.stage_starts) > 1 else ""
        if expected is None:
            facts["memory"] = f"not predicted ({self.why_not}); --measure measures it"
        else:
            parts = {**expected.kept, "activations": expected.activations}
            facts["memory"] = (
                f"{expected.peak_bytes / GIB:.2f} GiB at the peak of a step (predicted, of tensors alone):"
            )
            facts[""] = ", ".join(f"{kind} {size / GIB:.2f}" for kind, size in parts.items())
            facts["checkpoint"] = f"{expected.checkpoint_bytes / 1e6:.0f} MB (predicted)"
            facts["predicted"] = f"for steps of {expected.samples} samples, {self.precision}, on one device{stages}"
        if self.cost is not None:
            measured = {name: text for name, text in describe_cost(model, self.cost).items() if name != "parameters"}
            facts |= {"peak memory": f"{measured.pop('peak memory')}, measured", **measured}
            facts["measured"] = f"{self.precision}{stages}"
        elif expected is not None:
            facts["time"] = "not measured; --measure times training steps"
        if model.origin is not None:
            facts["origin"] = origin_line(model.origin)
        head = f"{type(model).__name__}, samples of {' x '.join(map(str, model.data_shape))}"
        return [head, *(f"  {name:<12} {text}" for name, text in facts.items())]

    def as_json(self) -> dict[str, Any]:
        """The facts as plain data; null where nothing was predicted or measured."""
        model, expected, cost = self.model, self.expected, self.cost
        return {
            "model": type(model).__name__,
            "data_shape": list(model.data_shape),
            "label_classes": model.label_classes,
            "samples_seen": model.samples_seen,
            "parameters": self.counts,
            "batch_size": self.batch_size,
            "samples_per_step": None if expected is None else expected.samples,
            "precision": self.precision,
            "device": str(self.device),
            "origin": model.origin,
            "peak_bytes": None if expected is None else expected.peak_bytes,
            "kept_bytes": None if expected is None else {**expected.kept, "activations": expected.activations},
            "checkpoint_bytes": None if expected is None else expected.checkpoint_bytes,
            "s_per_kimg": None if cost is None else cost.seconds_per_kimg,
            "measured_peak_bytes": None if cost is None else cost.peak_bytes or None,
            "measured_peak_source": None if cost is None else cost.peak_source,
        }

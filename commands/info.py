"""`info`: what a checkpoint or a config is, what memory its training will take, and, measured, what time."""

import argparse
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands.options.parsers import add_device, verb_parser

if TYPE_CHECKING:
    import torch

    from callbacks.expected import Expected
    from callbacks.plan import Cost
    from models.training.base import GenerativeModel


def parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    parser = verb_parser(
        "info",
        "Parameters by network, output, and the memory of training, predicted without data and without training. "
        "Of a config, every flag of `fit` changes what is described: --model.width 32, --trainer.precision bf16-mixed.",
    )
    parser.add_argument("path", type=Path, nargs="?", help="a checkpoint, a run's folder, or a run config")
    parser.add_argument("--config", type=Path, action="append", default=[], help="a run config; more merge over it")
    parser.add_argument("--batch_size", type=int, help="of a training step; the config's, or 64, where left out")
    parser.add_argument(
        "--measure", action="store_true", help="measure time and memory, by a few training steps on noise"
    )
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
        raise ValueError("name one of: a run config, a checkpoint, a run's folder")
    for path in configs or [options.path]:
        if not path.exists():
            raise FileNotFoundError(f"no checkpoint, run or config at {path}")
    if of_fit and not configs:
        raise ValueError(f"{of_fit[0]}: {options.path} is no config; flags of fit change configs alone")
    if options.batch_size is not None and options.batch_size < 1:
        raise ValueError("--batch_size must be at least 1")

    from commands.options.checkpoints import usable_device

    device = usable_device(options.device)
    if configs:
        model, precision, batch_size = of_config(configs, of_fit, device, with_weights=options.measure)
    else:
        model, precision, batch_size = of_checkpoint(options.path, device)
    batch_size = options.batch_size or batch_size
    counts = {name: sum(p.numel() for p in network.parameters()) for name, network in model.networks().items()}
    cost = measure(model, batch_size, device, precision) if options.measure else None
    expected, why_not = predict(model, batch_size, precision)
    if options.json:
        print(json.dumps(as_json(model, counts, batch_size, device, precision, expected, cost), indent=2))
    else:
        print("\n".join(in_words(model, counts, precision, expected or why_not, cost)))
    return 0


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The verb's own arguments, and those of `fit`: flags that it does not know, each with its value."""
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
    """The model of a config, precision and batch size; where it needs no weights, its tensors have shapes alone."""
    import torch
    from lightning.fabric.connector import _convert_precision_to_unified_args

    from commands.options.command_line import TrainingCLI, as_input_errors, quietly

    class Described(TrainingCLI):
        """Model and data, without the Trainer, for whose devices nobody asks here."""

        def instantiate_classes(self) -> None:
            # Not around all of it: what is imported by the way keeps the tensors of its top level.
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
    """The model of a checkpoint, the precision that a fit would take here, and its run's batch size."""
    from commands.options.checkpoints import checkpoint_at
    from commands.options.command_line import default_precision
    from models import load

    checkpoint = checkpoint_at(path)
    return load(checkpoint), default_precision(accelerator_of(device)), batch_size_of(checkpoint)


def accelerator_of(device: "torch.device") -> str:
    """The Trainer's word for a kind of device."""
    return "gpu" if device.type == "cuda" else device.type


def predict(model: "GenerativeModel", batch_size: int, precision: str) -> "tuple[Expected | None, str]":
    """What a training step will keep in memory, or None and why that is not known. Uses the model's weights up."""
    from callbacks.expected import expected_memory
    from commands.options.command_line import quietly
    from commands.options.errors import one_line

    try:
        with quietly():
            return expected_memory(model, batch_size, precision), ""
    except (RuntimeError, ValueError, AssertionError) as error:  # torch asserts what it cannot do
        return None, one_line(error)[:200]


def measure(model: "GenerativeModel", batch_size: int, device: "torch.device", precision: str) -> "Cost":
    """Trial training steps on noise, as `fit` runs them for its plan; of a model that grows, in its last stage."""
    import lightning

    from callbacks.plan import Trial
    from commands.options.command_line import quietly

    trial = Trial(batch_size)
    with quietly():
        trainer = lightning.Trainer(
            accelerator=accelerator_of(device),
            devices=1 if device.type != "cuda" else [device.index or 0],
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


def in_words(
    model: "GenerativeModel",
    counts: dict[str, int],
    precision: str,
    expected: "Expected | str",
    cost: "Cost | None",
) -> list[str]:
    """The facts as lines; what was predicted and what measured is said of each."""
    from callbacks.memory import GIB
    from callbacks.plan import describe_cost
    from commands.options.checkpoints import origin_line

    facts = {
        "trained": f"{model.samples_seen / 1000:g} kimg",
        "classes": str(model.label_classes) if model.label_classes else "unconditional",
        "parameters": ", ".join(f"{name} {count:,}" for name, count in counts.items()),
    }
    stages = f", in the last of {len(model.stage_starts)} stages" if len(model.stage_starts) > 1 else ""
    if isinstance(expected, str):
        facts["memory"] = f"not predicted ({expected}); --measure measures it"
    else:
        kept = {**expected.kept, "activations": expected.activations}
        facts["memory"] = f"{expected.peak_bytes / GIB:.2f} GiB at the peak of a step (predicted, of tensors alone):"
        facts[""] = ", ".join(f"{kind} {size / GIB:.2f}" for kind, size in kept.items())
        facts["checkpoint"] = f"{expected.checkpoint_bytes / 1e6:.0f} MB (predicted)"
        facts["predicted"] = f"for steps of {expected.samples} samples, {precision}, on one device{stages}"
    if cost is not None:
        measured = {name: text for name, text in describe_cost(model, cost).items() if name != "parameters"}
        facts |= {"peak memory": f"{measured.pop('peak memory')}, measured", **measured}
        facts["measured"] = f"{precision}{stages}"
    elif not isinstance(expected, str):
        facts["time"] = "not measured; --measure times training steps"
    if model.origin is not None:
        facts["origin"] = origin_line(model.origin)
    head = f"{type(model).__name__}, samples of {' x '.join(map(str, model.data_shape))}"
    return [head, *(f"  {name:<12} {text}" for name, text in facts.items())]


def as_json(
    model: "GenerativeModel",
    counts: dict[str, int],
    batch_size: int,
    device: "torch.device",
    precision: str,
    expected: "Expected | None",
    cost: "Cost | None",
) -> dict[str, Any]:
    """The facts as plain data; `s_per_kimg` and `measured_peak_bytes` are null where nothing was measured."""
    return {
        "model": type(model).__name__,
        "data_shape": list(model.data_shape),
        "label_classes": model.label_classes,
        "samples_seen": model.samples_seen,
        "parameters": counts,
        "batch_size": batch_size,
        "samples_per_step": None if expected is None else expected.samples,
        "precision": precision,
        "device": str(device),
        "origin": model.origin,
        "peak_bytes": None if expected is None else expected.peak_bytes,
        "kept_bytes": None if expected is None else {**expected.kept, "activations": expected.activations},
        "checkpoint_bytes": None if expected is None else expected.checkpoint_bytes,
        "s_per_kimg": None if cost is None else cost.seconds_per_kimg,
        "measured_peak_bytes": None if cost is None else cost.peak_bytes or None,
        "measured_peak_source": None if cost is None else cost.peak_source,
    }

"""fit, validate, test, predict: trains a model from its run config, or runs a checkpoint through the Trainer."""

import itertools
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from callbacks.checkpoints import CheckpointError, Checkpoints
from callbacks.guard import NonFiniteError
from callbacks.lookup import find
from callbacks.predictions import Predictions, SampleIndices
from callbacks.run import run_of
from commands.options.checkpoints import run_folder_of
from commands.options.command_line import TrainingCLI, as_input_errors, quietly
from commands.options.configs import read_config
from commands.options.errors import BAD_INPUT, InputError, one_line
from commands.options.init_from import take_weights
from commands.options.parsers import split_flag
from datamodules.base import DataModule
from models.training.base import GenerativeModel, OutOfMemoryInPhaseError
from models.training.checkpoint import own_fields, read_checkpoint
from records.run import InitFrom, ResumeOverride
from settings.configurable import completed, describe, differences

MENDABLE = (OutOfMemoryInPhaseError, NonFiniteError, CheckpointError)
"""Errors in the middle of a fit that the user can fix; they are not crashes."""


def run(verb: str, arguments: Sequence[str]) -> int:
    """Runs one of Lightning's verbs. Raises InputError, in one line, for everything the user can fix."""
    words, overrides = split_overrides(arguments) if verb == "fit" else (list(arguments), [])
    with as_input_errors(), quietly():
        require_readable(arguments)
        cli = TrainingCLI([verb, *words, *(f"--{override}" for override in overrides)])
    keys = [override.partition("=")[0] for override in overrides]
    return fit(cli, keys) if verb == "fit" else without_training(cli, verb)


def fit(cli: TrainingCLI, overrides: Sequence[str] = ()) -> int:
    """Trains. run.json ends with a final status whatever happens.

    `overrides` are keys of hyperparameters that may differ from those of the resumed checkpoint.
    """
    record = run_of(cli.trainer)
    record.config = cli.settled_config()
    ckpt_path, init_from = cli.arguments.get("ckpt_path"), cli.arguments.get("init_from")
    if init_from is not None:
        if ckpt_path is not None:
            raise InputError(
                "--init_from begins a run, --ckpt_path resumes one: leave one out (--init_from null if in a config)"
            )
        record.init_from = begin_from(cli, init_from)
    if overrides and ckpt_path is None:
        raise InputError("--resume_override applies to resumed runs, with --ckpt_path; a new run takes flags")
    if ckpt_path is not None:
        with as_input_errors():
            checkpoint = read_checkpoint(ckpt_path)
            require_resumable(checkpoint, ckpt_path)
            changed = require_same(checkpoint, cli.model, cli.datamodule, cli.arguments.seed_everything, overrides)
            if changed:
                require_loadable(checkpoint, cli.model, changed)
                seen = own_fields(checkpoint)["samples_seen"]
                record.resume_override = ResumeOverride(seen, changed)
        record.resume_folder = run_folder_of(Path(ckpt_path))
    try:
        with quietly(), cli.stops.handling():
            cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=ckpt_path)
    except BaseException as error:
        if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
            # Ctrl-C before the first batch; Lightning would exit with 1.
            record.finish(cli.trainer, "stopped")
            return 130
        record.finish(cli.trainer, "failed", f"{type(error).__name__}: {one_line(error)}")
        if isinstance(error, MENDABLE) or (isinstance(error, BAD_INPUT) and not record.has_trained):
            raise InputError(one_line(error)) from error
        raise
    record.finish(cli.trainer, "stopped" if cli.stops.received else "done")
    if cli.trainer.is_global_zero:
        print(f"run folder: {record.folder}", file=sys.stderr)
    return cli.stops.exit_code


def begin_from(cli: TrainingCLI, path: str) -> InitFrom:
    """Copies weights of a checkpoint into the model, prints what fits, and returns the record of it.

    Raises InputError, naming the file, if it is not a checkpoint of this family, or nothing of it fits.
    """
    with as_input_errors():
        checkpoint = read_checkpoint(path)
        try:
            transfer = take_weights(cli.model, checkpoint)
        except ValueError as error:
            raise InputError(f"--init_from {path}: {error}") from error
    if cli.trainer.is_global_zero:
        print("\n".join([f"weights of {path}", *transfer.lines()]), file=sys.stderr)
    return InitFrom(path, len(transfer.taken), list(transfer.left))


def without_training(cli: TrainingCLI, verb: str) -> int:
    """Runs validate, test or predict on a checkpoint: an untrained model has nothing to evaluate."""
    ckpt_path = cli.arguments.get("ckpt_path")
    if ckpt_path is None:
        raise InputError(f"{verb} needs --ckpt_path: a checkpoint, or `last` for the newest of this config's runs")
    trainer, checkpoints = cli.trainer, find(cli.trainer, Checkpoints)
    assert checkpoints is not None
    with as_input_errors(), quietly():
        require_same(read_checkpoint(ckpt_path), cli.model)
        trainer.strategy.checkpoint_io = checkpoints.checkpoint_io
        if verb == "predict":
            folder = (run_folder_of(Path(ckpt_path)) or Path(ckpt_path).parent) / "predictions"
            trainer.callbacks.append(Predictions(folder))  # type: ignore[attr-defined]
            quality = cli.arguments.quality
            indices = DataLoader(SampleIndices(trainer, quality.num_samples, quality.batch_size), batch_size=None)
            trainer.predict(cli.model, indices, return_predictions=False, ckpt_path=ckpt_path)
            print(folder)
        else:
            measure = trainer.validate if verb == "validate" else trainer.test
            measure(cli.model, datamodule=cli.datamodule, ckpt_path=ckpt_path)
    for name, figure in run_of(trainer).record.figures.items():
        print(f"{name} {figure.value:.6g}  {json.dumps(figure.protocol)}")
    return 0


def require_readable(arguments: Sequence[str]) -> None:
    """Checks the syntax of all named configs and their includes, since the parser's own message names no file."""
    for word, following in itertools.pairwise([*arguments, ""]):
        path = Path(following if word in ("--config", "-c") else word.removeprefix("--config="))
        if path.suffix in (".yaml", ".yml") and path.is_file():
            read_config(path)


def require_resumable(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Raises InputError, naming the file, if it holds weights alone, as imported checkpoints do."""
    if "optimizer_states" not in checkpoint:
        raise InputError(
            f"{path} has no optimizer states, as is normal for imported weights, so training cannot resume from it: "
            "sample, evaluate or export it, or begin a run with its weights: fit --init_from"
        )


def require_same(
    checkpoint: dict[str, Any],
    model: GenerativeModel,
    data: DataModule | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
) -> list[str]:
    """Compares hyperparameters, and data and seed if given, with a checkpoint's; returns the allowed differences.

    Keys of the model in `overrides`, and keys below them, may differ.

    Raises InputError with the list of the other differences.
    """
    own = own_fields(checkpoint)
    found = differences(completed(own["model"]), describe(model), "model")
    flags = []
    if data is not None and "atelier_data" in checkpoint:  # only fits write it
        theirs, mine = checkpoint["atelier_data"], data.settings()
        found += differences(theirs, mine, "data")
        if theirs["class_path"] == mine["class_path"]:
            changes = {name: old for name, old in theirs["init_args"].items() if old != mine["init_args"].get(name)}
            flags = [f"--data.{name} {json.dumps(old)}" for name, old in changes.items()]
    if seed is not None and own["training_seed"] is not None and own["training_seed"] != seed:
        found.append(f"seed_everything: {own['training_seed']} -> {seed}")
    changed = [line for line in found if any(re.match(rf"{re.escape(key)}[.:\[]", line) for key in overrides)]
    refused = [line for line in found if line not in changed]
    if refused:
        remedy = "; change a setting of the model with --resume_override key=value" if data is not None else ""
        remedy += f"; keep its data with {' '.join(flags)}" if flags else ""
        raise InputError(
            f"the checkpoint was trained with other settings (checkpoint -> now): {'; '.join(refused)}{remedy}"
        )
    return changed


def require_loadable(checkpoint: dict[str, Any], model: GenerativeModel, changed: Sequence[str]) -> None:
    """Raises InputError, naming the override, if it changes the shapes of weights, which then cannot be loaded."""
    mine = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
    if mine != theirs:
        raise InputError(
            f"--resume_override {'; '.join(changed)}: the weights have other shapes; begin a run with --init_from"
        )


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments without `--resume_override key=value`, and the values.

    Raises InputError if one is not a setting of the model as key=value.
    """
    words, overrides = split_flag(arguments, "--resume_override")
    for override in overrides:
        if not re.match(r"model\.[\w.]+=", override):
            raise InputError(
                f"--resume_override {override}: give a setting of the model as key=value, such as "
                "model.adversarial.lr=1e-4"
            )
    return words, overrides

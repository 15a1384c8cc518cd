"""fit, validate, test, predict: Lightning's command line over our models, data and callbacks."""

import contextlib
import itertools
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from jsonargparse import ArgumentError
from lightning import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch.utils.data import DataLoader

from callbacks.budget import Budget
from callbacks.checkpoints import CheckpointError, Checkpoints
from callbacks.diagnosis import Diagnosis
from callbacks.guard import Guard, NonFiniteError
from callbacks.hardware import has_bf16_units
from callbacks.likelihood import Likelihood
from callbacks.lookup import find
from callbacks.memory import Memory
from callbacks.plan import Plan
from callbacks.predictions import Predictions, SampleIndices
from callbacks.progress import Progress
from callbacks.quality import Quality
from callbacks.run import Run, run_of
from callbacks.sample_grid import SampleGrid
from callbacks.stops import Stops
from callbacks.text_samples import TextSamples
from callbacks.throughput import Throughput
from commands.options.checkpoints import checkpoint_at, newest_of_runs, run_folder_of
from commands.options.errors import BAD_INPUT, InputError, one_line, parser_error
from commands.options.init_from import take_weights
from datamodules.base import DataModule
from models.parts.part import completed, describe, differences
from models.training.base import GenerativeModel, OutOfMemoryInPhaseError, own_fields, read_checkpoint

DEFAULTS = Path(__file__).parent.parent / "configs" / "defaults.yaml"

MENDABLE = (OutOfMemoryInPhaseError, NonFiniteError, CheckpointError)
"""What can go wrong in the middle of a fit and is the user's to mend, not a crash."""

KEYED_CALLBACKS = {
    "run": Run,
    "budget": Budget,
    "quality": Quality,
    "likelihood": Likelihood,
    "diagnosis": Diagnosis,
    "samples": SampleGrid,
    "texts": TextSamples,
    "checkpoints": Checkpoints,
    "memory": Memory,
    "throughput": Throughput,
}
"""What a sweep or a flag may turn, each under a key of its own: a list item cannot be addressed."""


class TrainingCLI(LightningCLI):
    """Any model of ours on any data of ours; see `configs/` for what the keys mean."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.stops = Stops()
        own = {"exit_on_error": False, "default_config_files": [str(DEFAULTS)]}
        super().__init__(
            model_class=GenerativeModel,
            datamodule_class=DataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,  # the run's folder keeps it: trainer.log_dir is not per run under W&B
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={"exit_on_error": False, **{verb: dict(own) for verb in LightningCLI.subcommands()}},
            args=list(arguments),
            run=True,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:  # noqa: ANN401 - Lightning's signature
        """Without Lightning's warning about `sys.argv`, which is where our arguments usually come from."""
        self.config = parser.parse_args(args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for key, callback in KEYED_CALLBACKS.items():
            parser.add_lightning_class_args(callback, key)
        # Of every verb, since every verb reads a run's config.yaml, which may hold it.
        parser.add_argument(
            "--init_from",
            type=str | None,
            default=None,
            help="fit: a checkpoint whose weights the new run begins with, as far as they fit",
        )
        parser.add_argument(
            "--resume_override",
            type=str | None,
            default=None,
            help="fit --ckpt_path: key=value, a setting of the model that changes from here on; repeatable",
        )
        parser.link_arguments("data.data_shape", "model.init_args.data_shape", apply_on="instantiate")
        parser.link_arguments("data.num_classes", "model.init_args.num_classes", apply_on="instantiate")
        for of_tokens in ("vocabulary_size", "alphabet"):  # which models of pictures do not take
            parser.link_arguments(f"data.{of_tokens}", f"model.init_args.{of_tokens}", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.init_args.seed")

    def _parse_ckpt_path(self) -> None:
        """Lightning would let a checkpoint's hyperparameters win in silence; `require_same` compares them instead."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Left to `run`, which must know what is parsed and built before anything starts."""

    @property
    def arguments(self) -> Any:  # noqa: ANN401 - a jsonargparse namespace
        """The parsed configuration of the verb."""
        return self.config[self.subcommand]

    def before_instantiate_classes(self) -> None:
        trainer = self.arguments.trainer
        if self.subcommand == "validate":
            trainer.limit_val_batches = 1.0  # 0 by default, which keeps validation out of a fit
        settings = self.arguments.model.init_args
        if isinstance(settings.get("codes_from"), str):  # a run's folder stands for its newest checkpoint
            settings.codes_from = str(checkpoint_at(settings.codes_from))
        if trainer.precision is None:
            trainer.precision = default_precision(trainer.accelerator)
        if self.arguments.run.name is None:
            self.arguments.run.name = run_name(self.arguments)
        if self.arguments.get("ckpt_path") == "last":
            self.arguments.ckpt_path = str(newest_checkpoint(Path(self.arguments.run.root) / self.arguments.run.name))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401 - Lightning's signature
        trainer = super().instantiate_trainer(**kwargs)
        # The order is that of a batch's end: report, judge, draw, save, and only then ask whether to stop.
        by_type = {type(callback): callback for callback in trainer.callbacks}  # type: ignore[attr-defined]
        ours = [by_type[Run], self.stops, Plan(), Guard(), by_type[Memory], by_type[Quality]]
        ours += [
            by_type[Likelihood],
            by_type[Diagnosis],
            by_type[SampleGrid],
            by_type[TextSamples],
            by_type[Budget],
            Progress(),
            by_type[Checkpoints],
            by_type[Throughput],
        ]
        others = [callback for callback in trainer.callbacks if type(callback) not in map(type, ours)]  # type: ignore[attr-defined]
        others = [callback for callback in others if not isinstance(callback, lightning.pytorch.callbacks.ProgressBar)]
        trainer.callbacks = [*ours, *others]  # type: ignore[attr-defined]
        return trainer

    def config_as_plain(self) -> dict[str, Any]:
        """The whole configuration, as it can be written and read again with `--config`."""
        parser = self._parser(self.subcommand)
        text = parser.dump(self.arguments, skip_none=False, skip_link_targets=True, format="yaml")
        config: dict[str, Any] = yaml.safe_load(text)
        config.pop("ckpt_path", None)
        config.pop("resume_override", None)  # its value is the setting's own by now
        return config


def run(verb: str, arguments: Sequence[str]) -> int:
    """Runs one of Lightning's verbs.

    Raises:
        InputError: for everything the user can mend, in one line.
    """
    require_readable(arguments)
    words, overrides = split_overrides(arguments) if verb == "fit" else (list(arguments), [])
    with as_input_errors(), quietly():
        cli = TrainingCLI([verb, *words, *(f"--{override}" for override in overrides)])
    keys = [override.partition("=")[0] for override in overrides]
    return fit(cli, keys) if verb == "fit" else evaluate(cli, verb)


def fit(cli: TrainingCLI, overrides: Sequence[str] = ()) -> int:
    """Trains, and leaves run.json in its last state whatever happens.

    `overrides` are keys of hyperparameters that may differ from those of the checkpoint that is resumed.
    """
    record = run_of(cli.trainer)
    record.config = cli.config_as_plain()
    ckpt_path, init_from = cli.arguments.get("ckpt_path"), cli.arguments.get("init_from")
    if init_from is not None:
        if ckpt_path is not None:
            raise InputError(
                "--init_from begins a run and --ckpt_path goes on with one: leave one out "
                "(--init_from null where a config names it)"
            )
        record.init_from = begin_from(cli, init_from)
    if overrides and ckpt_path is None:
        raise InputError("--resume_override changes a run that goes on, and needs --ckpt_path; a new one takes flags")
    if ckpt_path is not None:
        with as_input_errors():
            checkpoint = read_checkpoint(ckpt_path)
            require_resumable(checkpoint, ckpt_path)
            changed = require_same(checkpoint, cli.model, cli.datamodule, cli.arguments.seed_everything, overrides)
            if changed:
                require_loadable(checkpoint, cli.model, changed)
                seen = own_fields(checkpoint)["samples_seen"]
                record.resume_override = {"samples_seen": seen, "changed": changed}
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


def begin_from(cli: TrainingCLI, path: str) -> dict[str, Any]:
    """Gives the model what fits of a checkpoint's weights, and says what that is; gives what run.json keeps of it.

    Raises:
        InputError: naming the file, if it is no checkpoint, or of another family, or nothing of it fits.
    """
    with as_input_errors():
        checkpoint = read_checkpoint(path)
        try:
            transfer = take_weights(cli.model, checkpoint)
        except ValueError as error:
            raise InputError(f"--init_from {path}: {error}") from error
    if cli.trainer.is_global_zero:
        print("\n".join([f"weights of {path}", *transfer.lines()]), file=sys.stderr)
    return {"path": path, "taken": len(transfer.taken), "left": list(transfer.left)}


def evaluate(cli: TrainingCLI, verb: str) -> int:
    """validate, test and predict need a checkpoint: an untrained model has nothing to measure."""
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
        elif verb == "validate":
            trainer.validate(cli.model, datamodule=cli.datamodule, ckpt_path=ckpt_path)
        else:
            trainer.test(cli.model, datamodule=cli.datamodule, ckpt_path=ckpt_path)
    for name, figure in run_of(trainer).record.get("figures", {}).items():
        print(f"{name} {figure['value']:.6g}  {json.dumps(figure['protocol'])}")
    return 0


def require_readable(arguments: Sequence[str]) -> None:
    """Looks at the syntax of every config file named: the parser's own message would not name the file.

    Raises:
        InputError: naming file, line and column.
    """
    for word, following in itertools.pairwise([*arguments, ""]):
        path = Path(following if word in ("--config", "-c") else word.removeprefix("--config="))
        if path.suffix not in (".yaml", ".yml") or not path.is_file():
            continue
        try:
            yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not YAML: {one_line(error)}") from error


def newest_checkpoint(folder: Path) -> Path:
    """What `--ckpt_path last` means: the newest resumable run of this name.

    Raises:
        InputError: if there is none.
    """
    found = newest_of_runs(folder)
    if found is None:
        raise InputError(f"--ckpt_path last: no run in {folder} has a checkpoint; start one without --ckpt_path")
    return found


def require_resumable(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Refuses to go on from weights alone, such as imported ones.

    Raises:
        InputError: naming the file.
    """
    if "optimizer_states" not in checkpoint:
        raise InputError(
            f"{path} has no states of optimizers, as imported weights have none, and training cannot go on from it: "
            "sample, evaluate or export it, or begin a run with its weights: fit --init_from"
        )


def require_same(
    checkpoint: dict[str, Any],
    model: GenerativeModel,
    data: DataModule | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
) -> list[str]:
    """Refuses to go on with other hyperparameters than a checkpoint's; data and seed are compared where given.

    The model's that are named in `overrides` may differ, or lie within what is named; gives how they do.

    Raises:
        InputError: with the list of the others.
    """
    own = own_fields(checkpoint)
    found = differences(completed(own["model"]), describe(model), "model")
    if data is not None and "atelier_data" in checkpoint:  # written by a fit; a checkpoint made otherwise has none
        found += differences(checkpoint["atelier_data"], data.settings(), "data")
    if seed is not None and own["training_seed"] is not None and own["training_seed"] != seed:
        found.append(f"seed_everything: {own['training_seed']} -> {seed}")
    changed = [line for line in found if any(re.match(rf"{re.escape(key)}[.:\[]", line) for key in overrides)]
    refused = [line for line in found if line not in changed]
    if refused:
        remedy = "; change one of the model's with --resume_override key=value" if data is not None else ""
        raise InputError(f"the checkpoint was trained with other settings (its -> yours): {'; '.join(refused)}{remedy}")
    return changed


def require_loadable(checkpoint: dict[str, Any], model: GenerativeModel, changed: Sequence[str]) -> None:
    """Refuses an override of what decides the networks' shapes: the checkpoint's weights could not be loaded.

    Raises:
        InputError: naming what was overridden.
    """
    mine = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
    if mine != theirs:
        raise InputError(
            f"--resume_override {'; '.join(changed)}: its weights have other shapes; begin a run with --init_from"
        )


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Arguments without `--resume_override key=value`, and these, as key=value.

    Raises:
        InputError: for one that is not key=value, or not a setting of the model.
    """
    words, overrides = [], []
    rest = iter(arguments)
    for word in rest:
        if word == "--resume_override":
            overrides.append(next(rest, ""))
        elif word.startswith("--resume_override="):
            overrides.append(word.partition("=")[2])
        else:
            words.append(word)
    for override in overrides:
        if not re.match(r"model\.[\w.]+=", override):
            raise InputError(
                f"--resume_override {override}: give a setting of the model as key=value, such as "
                "model.adversarial.lr=1e-4"
            )
    return words, overrides


# Defaults that depend on the machine or the command.


def default_precision(accelerator: str) -> str:
    """bf16 where the device has units for it, float32 elsewhere, where emulation would be slower."""
    cuda = torch.cuda.is_available() and accelerator in ("auto", "gpu", "cuda")
    device = torch.device("cuda" if cuda else "cpu")
    if accelerator not in ("auto", "gpu", "cuda", "cpu"):
        return "32-true"
    return "bf16-mixed" if has_bf16_units(device) else "32-true"


def run_name(arguments: Any) -> str:  # noqa: ANN401 - a jsonargparse namespace
    """The run config's file name, else the model's class."""
    for path in arguments.get("config") or []:
        with contextlib.suppress(TypeError, ValueError):
            stem = Path(str(path)).stem
            if Path(str(path)).suffix in (".yaml", ".yml"):
                return stem
    return str(arguments.model.class_path).rpartition(".")[2].lower()


# Errors and warnings.


@contextlib.contextmanager
def as_input_errors() -> Iterator[None]:
    """Turns what goes wrong before training into InputErrors of one line."""
    try:
        yield
    except ArgumentError as error:
        raise InputError(parser_error(error.message)) from error
    except BAD_INPUT as error:
        raise InputError(parser_error(str(error))) from error
    except lightning.fabric.utilities.exceptions.MisconfigurationException as error:
        raise InputError(one_line(error)) from error


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without what Lightning and jsonargparse say by default and nobody can act on."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    with warnings.catch_warnings():
        # Data lies in memory: more workers would not help, whatever the number of cores.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # The generator's average stays in evaluation mode, by design.
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
        warnings.filterwarnings("ignore", message=".*You defined a .validation_step. but have no.*")
        yield

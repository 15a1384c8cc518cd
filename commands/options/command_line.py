"""Lightning's command line for our models, data and callbacks: the arguments of `fit` and its siblings."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentError
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from callbacks.budget import Budget
from callbacks.checkpoints import Checkpoints
from callbacks.diagnosis import Diagnosis
from callbacks.guard import Guard
from callbacks.hardware import has_bf16_units
from callbacks.likelihood import Likelihood
from callbacks.memory import Memory
from callbacks.plan import Plan
from callbacks.progress import Progress
from callbacks.quality import Quality
from callbacks.run import Run
from callbacks.sample_grid import SampleGrid
from callbacks.stops import Stops
from callbacks.text_samples import TextSamples
from callbacks.throughput import Throughput
from commands.options.checkpoints import checkpoint_at, newest_of_runs, why_unreadable
from commands.options.configs import MODE, import_classes
from commands.options.errors import BAD_INPUT, InputError, one_line, parser_error
from datamodules.base import DataModule
from models.training.base import GenerativeModel

DEFAULTS = Path(__file__).parents[2] / "configs" / "defaults.yaml"

CALLBACKS: tuple[tuple[str | None, type[Callback]], ...] = (
    ("run", Run),
    (None, Stops),
    (None, Plan),
    (None, Guard),
    ("memory", Memory),
    ("quality", Quality),
    ("likelihood", Likelihood),
    ("diagnosis", Diagnosis),
    ("samples", SampleGrid),
    ("texts", TextSamples),
    ("budget", Budget),
    (None, Progress),
    ("checkpoints", Checkpoints),
    ("throughput", Throughput),
)
"""The callbacks of every fit, in order of execution: report, measure, draw, check the budget, save.

The first item is the key in configs, through which flags and sweeps reach the callback's settings.
"""


class TrainingCLI(LightningCLI):
    """Accepts any of our models with any of our data; `configs/` explains the keys."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.stops = Stops()
        own = {"exit_on_error": False, "default_config_files": [str(DEFAULTS)]}
        super().__init__(
            model_class=GenerativeModel,
            datamodule_class=DataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,  # the run's folder keeps the config: trainer.log_dir is not per run under W&B
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={
                "exit_on_error": False,
                "parser_mode": MODE,
                **{verb: dict(own) for verb in LightningCLI.subcommands()},
            },
            args=list(arguments),
            run=True,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:  # noqa: ANN401 - Lightning's signature
        """Parses without Lightning's warning about `sys.argv`, where our arguments usually come from."""
        for word in args:  # jsonargparse does not read the NAME of --model.help NAME through `load`
            import_classes(word.rpartition("=")[2], Path.cwd())
        self.config = parser.parse_args(args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for key, callback in CALLBACKS:
            if key is not None:
                parser.add_lightning_class_args(callback, key)
        # For every verb, since every verb reads a run's config.yaml, which may contain it.
        parser.add_argument(
            "--init_from", type=str | None, help="fit: a checkpoint whose weights, where they fit, start the new run"
        )
        parser.add_argument(
            "--resume_override",
            type=str | None,
            help="fit --ckpt_path: key=value, a setting of the model that changes from here on; repeatable",
        )
        parser.link_arguments("data.data_shape", "model.init_args.data_shape", apply_on="instantiate")
        parser.link_arguments("data.num_classes", "model.init_args.num_classes", apply_on="instantiate")
        for of_tokens in ("vocabulary_size", "alphabet"):  # models of pictures lack these arguments
            parser.link_arguments(f"data.{of_tokens}", f"model.init_args.{of_tokens}", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.init_args.seed")

    def _parse_ckpt_path(self) -> None:
        """Lightning would silently prefer a checkpoint's hyperparameters; `require_same` compares them instead."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Does nothing: `run` in `commands.training` looks at what was parsed and built first."""

    @property
    def arguments(self) -> Any:  # noqa: ANN401 - a jsonargparse namespace
        """The verb's parsed configuration."""
        return self.config[self.subcommand]

    def before_instantiate_classes(self) -> None:
        trainer = self.arguments.trainer
        if self.subcommand == "validate":
            trainer.limit_val_batches = 1.0  # the default 0 keeps validation out of a fit
        settings = self.arguments.model.init_args
        if isinstance(settings.get("codes_from"), str):  # a run's folder stands for its newest checkpoint
            settings.codes_from = str(checkpoint_at(settings.codes_from))
        if trainer.precision is None:
            trainer.precision = default_precision(trainer.accelerator)
        if self.arguments.run.name is None:
            self.arguments.run.name = run_name(self.arguments)
        if self.arguments.get("ckpt_path") == "last":
            folder = Path(self.arguments.run.root) / self.arguments.run.name
            if (newest := newest_of_runs(folder)) is None:
                reason = why_unreadable(folder) or "start one without --ckpt_path"
                raise InputError(f"--ckpt_path last: no run in {folder} has a checkpoint; {reason}")
            self.arguments.ckpt_path = str(newest)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401 - Lightning's signature
        trainer = super().instantiate_trainer(**kwargs)
        built: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        known = {type(callback): callback for callback in [*built, self.stops]}
        ours = [known[kind] if kind in known else kind() for _, kind in CALLBACKS]
        others = [each for each in built if type(each) not in map(type, ours) and not isinstance(each, ProgressBar)]
        trainer.callbacks = [*ours, *others]  # type: ignore[attr-defined]
        return trainer

    def settled_config(self) -> dict[str, Any]:
        """`config_as_plain`, with the data module's own choices for settings that were left open.

        Another machine may find other files, but a run that resumes there must use the same.
        """
        config, settled = self.config_as_plain(), self.datamodule.settings()["init_args"]
        given = config["data"].get("init_args", {})
        given |= {name: settled.get(name) for name, value in given.items() if value is None}
        return config

    def config_as_plain(self) -> dict[str, Any]:
        """The whole configuration, which can be written and read again with `--config`."""
        parser = self._parser(self.subcommand)
        text = parser.dump(self.arguments, skip_none=False, skip_link_targets=True, format="yaml")
        config: dict[str, Any] = yaml.safe_load(text)
        config.pop("ckpt_path", None)
        config.pop("resume_override", None)  # by now the setting itself has its value
        return config


# Defaults that depend on the machine or the command.


def default_precision(accelerator: str) -> str:
    """bf16 if the device has units for it, else float32, since emulation would be slower."""
    cuda = torch.cuda.is_available() and accelerator in ("auto", "gpu", "cuda")
    device = torch.device("cuda" if cuda else "cpu")
    if accelerator not in ("auto", "gpu", "cuda", "cpu"):
        return "32-true"
    return "bf16-mixed" if has_bf16_units(device) else "32-true"


def run_name(arguments: Any) -> str:  # noqa: ANN401 - a jsonargparse namespace
    """The file name of the run config, else the name of the model's class."""
    configs = [Path(str(path)) for path in arguments.get("config") or []]
    named = next((path.stem for path in configs if path.suffix in (".yaml", ".yml")), None)
    return named or str(arguments.model.class_path).rpartition(".")[2].lower()


# Errors and warnings.


@contextlib.contextmanager
def as_input_errors() -> Iterator[None]:
    """Turns errors before training into InputErrors of one line."""
    try:
        yield
    except ArgumentError as error:
        raise InputError(parser_error(error.message)) from error
    except BAD_INPUT as error:
        raise InputError(parser_error(str(error))) from error
    except MisconfigurationException as error:
        raise InputError(one_line(error)) from error


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Hides messages of Lightning and jsonargparse that nobody can act on."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    with warnings.catch_warnings():
        # Data is in memory: more workers would not help, whatever the number of cores.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # The generator's average stays in evaluation mode, by design.
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
        warnings.filterwarnings("ignore", message=".*You defined a .validation_step. but have no.*")
        yield

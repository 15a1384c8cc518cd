"""Lightning's command line over our models, data and callbacks: what `fit` and its like are told."""

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
"""What watches every fit, in the order of a batch's end: report, judge, draw, ask whether to stop, and save.

A sweep or a flag may turn what has a key, the callback's own in a config: a list item could not be addressed.
"""


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
            parser_kwargs={
                "exit_on_error": False,
                "parser_mode": MODE,
                **{verb: dict(own) for verb in LightningCLI.subcommands()},
            },
            args=list(arguments),
            run=True,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:  # noqa: ANN401 - Lightning's signature
        """Without Lightning's warning about `sys.argv`, which is where our arguments usually come from."""
        for word in args:  # --model.help NAME, which jsonargparse reads by other ways than configs and settings
            import_classes(word.rpartition("=")[2], Path.cwd())
        self.config = parser.parse_args(args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for key, callback in CALLBACKS:
            if key is not None:
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
        """As `config_as_plain`, with what the data module made of settings that were left open.

        Another machine may find other files; a run that goes on there must take the same.
        """
        config, settled = self.config_as_plain(), self.datamodule.settings()["init_args"]
        given = config["data"].get("init_args", {})
        given |= {name: settled.get(name) for name, value in given.items() if value is None}
        return config

    def config_as_plain(self) -> dict[str, Any]:
        """The whole configuration, as it can be written and read again with `--config`."""
        parser = self._parser(self.subcommand)
        text = parser.dump(self.arguments, skip_none=False, skip_link_targets=True, format="yaml")
        config: dict[str, Any] = yaml.safe_load(text)
        config.pop("ckpt_path", None)
        config.pop("resume_override", None)  # its value is the setting's own by now
        return config


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
    configs = [Path(str(path)) for path in arguments.get("config") or []]
    named = next((path.stem for path in configs if path.suffix in (".yaml", ".yml")), None)
    return named or str(arguments.model.class_path).rpartition(".")[2].lower()


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
    except MisconfigurationException as error:
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

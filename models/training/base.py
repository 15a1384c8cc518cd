"""GenerativeModel: the contract between a family and all code that trains, observes or measures it."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, TypeAlias

import lightning
import torch
from torch import Tensor, nn

from models.parts.arguments import UNKNOWN_DATA
from models.training.checkpoint import CHECKPOINT_FORMAT, own_fields
from models.training.ema import WeightAverage
from models.training.randomness import keyed_seed, sample_generator
from settings.configurable import Configurable, describe
from settings.likelihood import LikelihoodSettings
from settings.phases import OUTSIDE_STEPS
from settings.sampling import Precision, SamplerSettings

Batch: TypeAlias = tuple[Tensor, Tensor]
"""(x, y): x float32 in [-1, 1], (N, *data_shape), or int64 tokens; y int64 (N,), zeros if there are no labels."""

PhaseObserver: TypeAlias = Callable[[str], AbstractContextManager[None]]


class OutOfMemoryInPhaseError(RuntimeError):
    """Memory ran out in a named phase of training; the message names the settings to reduce."""


class GenerativeModel(lightning.LightningModule, Configurable, ABC):
    """A model that learns a distribution and draws from it.

    Every constructor argument of a family must be kept as an attribute of the same name (see `settings.configurable`).

    Args:
        data_shape: the shape of one sample, (C, H, W) for pictures. The command line links it from the data.
        num_classes: the number of classes in the data, 0 for none. Linked too.
    """

    settings_class: ClassVar[type[SamplerSettings]] = SamplerSettings
    micro_batches: int = 1
    """Forward passes that one loader batch is split into: discriminator steps x accumulation."""
    vocabulary_size: int = 0
    """The number of tokens, 0 to vocabulary_size - 1, if samples are sequences of tokens, int64 (N, length)."""
    alphabet: str | None = None
    """The character of each token, if tokens are characters, so that a checkpoint alone can write text."""
    conditional: bool = False
    """Whether the networks see labels, if there are any."""
    stage_starts: tuple[int, ...] = (0,)
    """The samples seen at which stages with a different cost per step begin: just one, unless the model grows."""
    lists_from_the_picture: ClassVar[tuple[str, ...]] = ()
    """Lists of modules that begin next to the picture. In a model of another resolution, a layer of these lists keeps
    its place from the end; a layer of any other list keeps its index."""

    def __init__(self, data_shape: Sequence[int], num_classes: int) -> None:
        super().__init__()
        if data_shape is None or num_classes is None:
            raise ValueError(UNKNOWN_DATA)
        self.data_shape = tuple(data_shape)
        self.num_classes = num_classes
        self.samples_seen = 0
        self.steps = 0
        self.training_seed: int | None = None
        self.origin: dict[str, str] | None = None
        """Where weights that others trained come from, and their licence. Fine-tuned models keep it."""
        self.phase_observers: list[PhaseObserver] = []
        self._observed: dict[str, tuple[Tensor, int]] = {}

    # To be provided by a family.

    @abstractmethod
    def networks(self) -> dict[str, nn.Module]:
        """The networks that are trained, by name, without averages."""

    @abstractmethod
    def generate(self, generators: Sequence[torch.Generator], labels: Tensor, settings: Any) -> Tensor:  # noqa: ANN401
        """Samples (N, *data_shape) in [-1, 1], or tokens int64 (N, length) if there is a `vocabulary_size`.

        Each sample gets all its noise from its own CPU generator.
        """

    def averages(self) -> dict[str, WeightAverage]:
        """Frozen averages of networks that sampling uses; empty if the family keeps none."""
        return {}

    @property
    def label_classes(self) -> int:
        """The number of classes that `sample` accepts; 0 if the model is unconditional, whatever the data."""
        return self.num_classes if self.conditional else 0

    @property
    def why_no_samples(self) -> str | None:
        """Why this model cannot draw samples, in one sentence with a remedy; None if it can, as nearly all can."""
        return None

    def settled(self, settings: Any) -> Any:  # noqa: ANN401 - an instance of `settings_class`
        """The settings, with the model's own values filled in where they leave a choice: what a protocol records."""
        return settings

    def samples_per_step(self, samples_seen: int, least: int) -> int:
        """Samples, over all ranks, in the training step that begins after `samples_seen`: a multiple of `least`.

        `least` is the data's batch size times `micro_batches`. The result must depend on the arguments and the model's
        settings alone, because data are loaded ahead of training.
        """
        return least

    def work_cycle(self) -> list[tuple[str, ...]]:
        """The extra work of each training step in a cycle; steps with the same work cost the same."""
        return [()]

    # Sampling.

    @torch.no_grad()
    def sample(
        self,
        indices: Sequence[int],
        labels: Sequence[int] | Tensor | None = None,
        *,
        seed: int = 0,
        settings: SamplerSettings | None = None,
    ) -> Tensor:
        """One batch of finished samples, (len(indices), *data_shape) in [-1, 1] or tokens, on the model's device.

        Sample i depends on (seed, i) and its label only, not on its batch. Mode and RNG are restored.

        Args:
            indices: which samples; any non-negative integers.
            labels: the class of each; by default drawn uniformly, by (seed, index).
            settings: an instance of the family's `settings_class`; by default its defaults.

        Raises:
            ValueError: for unknown labels, for another family's settings, or if the model cannot draw samples.
        """
        if self.why_no_samples is not None:
            raise ValueError(self.why_no_samples)
        if len(indices) == 0:
            kind = torch.int64 if self.vocabulary_size else torch.float32
            return torch.empty(0, *self.data_shape, dtype=kind, device=self.device)
        settings = self.settings_class() if settings is None else settings
        if not isinstance(settings, self.settings_class):
            raise ValueError(f"{type(self).__name__}.sample takes {self.settings_class.__name__}, not {settings!r}")
        generators = [sample_generator(seed, int(index)) for index in indices]
        wanted = self.sample_labels(indices, labels, seed=seed)
        with self.sampling(settings):
            drawn = self.generate(generators, wanted, settings)
            return drawn if self.vocabulary_size else drawn.float()

    def text_of(self, tokens: Tensor) -> list[str]:
        """The texts of tokens int64 (N, length). Raises ValueError if the model has no `alphabet`."""
        if self.alphabet is None:
            raise ValueError(f"the samples of this {type(self).__name__} are not text")
        return ["".join(self.alphabet[token] for token in row) for row in tokens.tolist()]

    def sample_labels(
        self, indices: Sequence[int], labels: Sequence[int] | Tensor | None = None, *, seed: int = 0
    ) -> Tensor:
        """The class of each sample that `sample` draws, int64 (N,); zeros if unconditional. Raises as `sample` does."""
        if labels is None:
            drawn = [keyed_seed(seed, int(index)) % max(self.label_classes, 1) for index in indices]
            return torch.tensor(drawn, dtype=torch.int64, device=self.device)
        if self.label_classes == 0:
            raise ValueError(f"this {type(self).__name__} is unconditional and takes no labels")
        wanted = torch.as_tensor(labels, dtype=torch.int64)
        if wanted.shape != (len(indices),):
            raise ValueError(f"{len(indices)} samples need as many labels, not {tuple(wanted.shape)}")
        if wanted.numel() and not 0 <= int(wanted.min()) <= int(wanted.max()) < self.label_classes:
            raise ValueError(f"labels must lie in 0..{self.label_classes - 1}")
        return wanted.to(self.device)

    def given_labels(self, labels: Tensor | None, count: int) -> Tensor:
        """`labels`, or zeros int64 (count,) if there are none, as unconditional networks are called with."""
        return torch.zeros(count, dtype=torch.int64, device=self.device) if labels is None else labels

    @contextlib.contextmanager
    def sampling(self, settings: SamplerSettings | LikelihoodSettings, phase: str = "sampling") -> Iterator[None]:
        """For drawing, encoding or decoding: evaluation mode and the settings' precision, all restored afterwards."""
        with self.phase(phase), self.in_eval_mode(), self.computing_in(settings.precision):
            yield

    def computing_in(self, precision: Precision) -> AbstractContextManager[Any]:
        """Networks compute in this precision inside the context, whatever the Trainer's."""
        if precision == "float32":
            return torch.autocast(self.device.type, enabled=False)
        return torch.autocast(self.device.type, dtype=getattr(torch, precision))

    @contextlib.contextmanager
    def in_eval_mode(self) -> Iterator[None]:
        """Evaluation mode; every module's mode and the global RNG are restored afterwards."""
        modes = {module: module.training for module in self.modules()}
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            self.eval()
            try:
                yield
            finally:
                for module, mode in modes.items():
                    module.training = mode

    # Training: phases, randomness, logged values.

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Marks a phase of work ("D step", "G step", "regularizer", "sampling", ...) for code that measures it.

        Raises OutOfMemoryInPhaseError, which names the phase, in place of torch's own error.
        """
        with contextlib.ExitStack() as stack:
            for observer in self.phase_observers:
                stack.enter_context(observer(name))
            try:
                yield
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                remedy = (
                    "lower the number of samples at once (--quality.batch_size, --likelihood.batch_size, --batch_size)"
                    if name in OUTSIDE_STEPS
                    else "lower --data.batch_size, raise accumulation, or use a smaller model, resolution or precision"
                )
                raise OutOfMemoryInPhaseError(f"out of memory in the {name} on {self.device}: {remedy}") from error

    def seed_step(self) -> None:
        """Seeds the global RNG for this training step of this rank: by (seed, samples seen, rank)."""
        assert self.training_seed is not None
        torch.manual_seed(keyed_seed(self.training_seed, self.samples_seen, self.global_rank))

    def count(self, batch: int) -> None:
        """Adds the samples of one finished training step, over all ranks."""
        self.samples_seen += batch
        self.steps += 1

    def observe(self, name: str, value: Tensor) -> None:
        """Adds a value to the mean that the next report gives. Never waits for the device."""
        total, count = self._observed.get(name, (None, 0))
        value = value.detach().mean().float()
        self._observed[name] = (value if total is None else total + value, count + 1)

    def reported(self) -> dict[str, float]:
        """The means of the values observed since the last call; waits for the device once."""
        if not self._observed:
            return {}
        names, pairs = list(self._observed), list(self._observed.values())
        self._observed = {}
        means = torch.stack([total / count for total, count in pairs]).tolist()
        return dict(zip(names, means, strict=True))

    # Lightning's hooks.

    def on_fit_start(self) -> None:
        """Sets the seed of the run, once: a resumed run keeps its own."""
        if self.training_seed is None:
            self.training_seed = torch.initial_seed()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Does nothing by default: the quality callback evaluates samples. Families with a likelihood log it here."""

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch: Sequence[int], batch_idx: int) -> Tensor:
        """The samples of a batch of indices."""
        return self.sample([int(index) for index in batch])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["atelier"] = {
            "format": CHECKPOINT_FORMAT,
            "model": describe(self),
            "samples_seen": self.samples_seen,
            "steps": self.steps,
            "training_seed": self.training_seed,
        }
        if self.origin is not None:
            checkpoint["atelier"]["origin"] = self.origin

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        own = own_fields(checkpoint)
        self.samples_seen = own["samples_seen"]
        self.steps = own["steps"]
        self.training_seed = own["training_seed"]
        self.origin = own.get("origin")


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)

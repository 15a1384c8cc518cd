"""GenerativeModel: the contract between a family and everything that trains, watches or measures it."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol, TypeAlias

import lightning
import torch
from torch import Tensor, nn

from models.parts.arguments import UNKNOWN_DATA
from models.training.checkpoint import CHECKPOINT_FORMAT, own_fields
from models.training.ema import WeightAverage
from models.training.randomness import keyed_seed, sample_generator
from settings.configurable import Configurable, describe
from settings.sampling import Precision, SamplerSettings

Batch: TypeAlias = tuple[Tensor, Tensor]
"""(x, y): x float32 in [-1, 1], (N, *data_shape), or int64 tokens; y int64 (N,), zeros where there are no labels."""

PhaseObserver: TypeAlias = Callable[[str], AbstractContextManager[None]]


class HasPrecision(Protocol):
    """Settings that say in what precision networks compute."""

    @property
    def precision(self) -> Precision: ...


class OutOfMemoryInPhaseError(RuntimeError):
    """Memory ran out in a named phase of training; the message says what to turn down."""


class GenerativeModel(lightning.LightningModule, Configurable, ABC):
    """A model that learns a distribution and draws from it.

    Every constructor argument of a family must be kept as an attribute of the same name (see `settings.configurable`).

    Args:
        data_shape: the shape of one sample, (C, H, W) for pictures. The command line links it from the data.
        num_classes: classes the data is labelled with, 0 for none. Linked likewise.
    """

    settings_class: ClassVar[type[SamplerSettings]] = SamplerSettings
    micro_batches: int = 1
    """Forward passes that one loader batch is split into: discriminator steps x accumulation."""
    vocabulary_size: int = 0
    """Where samples are sequences of tokens, int64 (N, length): how many there are, 0 to vocabulary_size - 1."""
    alphabet: str | None = None
    """The character of each token, where they are characters: with it a checkpoint writes text by itself."""
    conditional: bool = False
    """Whether the networks see labels, where there are any."""
    stage_starts: tuple[int, ...] = (0,)
    """Samples seen at which stages of training begin whose steps cost differently: one, but where a model grows."""
    lists_from_the_picture: ClassVar[tuple[str, ...]] = ()
    """Lists of modules whose first is next to the picture: in a model of another resolution, the same layer has the
    same place from the list's end. Of all other lists it has the same index."""

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
        """Of weights that others trained: where they come from, and their licence. It stays with all that follows."""
        self.phase_observers: list[PhaseObserver] = []
        self._observed: dict[str, tuple[Tensor, int]] = {}

    # What a family provides.

    @abstractmethod
    def networks(self) -> dict[str, nn.Module]:
        """The networks that are trained, by name; averages not included."""

    @abstractmethod
    def generate(self, generators: Sequence[torch.Generator], labels: Tensor, settings: Any) -> Tensor:  # noqa: ANN401
        """Finished samples (N, *data_shape) in [-1, 1], one for each CPU generator, from which all its noise comes.

        Of a model with a `vocabulary_size`, tokens int64 (N, length).
        """

    def averages(self) -> dict[str, WeightAverage]:
        """Frozen averages of networks that sampling uses; empty where a family keeps none."""
        return {}

    @property
    def label_classes(self) -> int:
        """Classes that `sample` can be asked for; 0 where the model is unconditional, whatever the data."""
        return self.num_classes if self.conditional else 0

    @property
    def why_no_samples(self) -> str | None:
        """In one sentence with a remedy, why this model cannot draw samples; None if it can, as nearly all do."""
        return None

    def settled(self, settings: Any) -> Any:  # noqa: ANN401 - an instance of `settings_class`
        """The settings, with the model's own values for what they leave to it: what a protocol records."""
        return settings

    def samples_per_step(self, samples_seen: int, least: int) -> int:
        """Samples, over all ranks, of the training step that begins after `samples_seen`: a multiple of `least`.

        `least` is the data's batch size times `micro_batches`, so that whatever divides one divides the other. A
        function of the arguments and the model's settings alone: data are loaded ahead of training.
        """
        return least

    def work_cycle(self) -> list[tuple[str, ...]]:
        """What each training step of a cycle does besides what all do: steps of the same work cost the same."""
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

        Sample i depends on (seed, i) and its label only, not on its batch; mode and RNG are left as they were.

        Args:
            indices: which samples; any non-negative integers.
            labels: the class of each; drawn uniformly, by (seed, index), where left out.
            settings: an instance of the family's `settings_class`; its defaults where left out.

        Raises:
            ValueError: for labels that the model does not know, or settings of another family; or if it has no samples.
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
        """The texts of tokens int64 (N, length), of a model with an `alphabet`.

        Raises:
            ValueError: the model has none.
        """
        if self.alphabet is None:
            raise ValueError(f"the samples of this {type(self).__name__} are no text")
        return ["".join(self.alphabet[token] for token in row) for row in tokens.tolist()]

    def sample_labels(
        self, indices: Sequence[int], labels: Sequence[int] | Tensor | None = None, *, seed: int = 0
    ) -> Tensor:
        """The class of each sample that `sample` draws for these arguments, int64 (N,); zeros where unconditional.

        Raises:
            ValueError: as `sample`.
        """
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
        """`labels`; zeros, int64 (count,), where there are none: what networks without classes are called with."""
        return torch.zeros(count, dtype=torch.int64, device=self.device) if labels is None else labels

    @contextlib.contextmanager
    def sampling(self, settings: HasPrecision, phase: str = "sampling") -> Iterator[None]:
        """Where networks draw, encode or decode: in evaluation mode and the settings' precision, without a trace."""
        with self.phase(phase), self.in_eval_mode(), self.computing_in(settings.precision):
            yield

    def computing_in(self, precision: Precision) -> AbstractContextManager[Any]:
        """Within this, networks compute in that precision, whatever the Trainer's."""
        if precision == "float32":
            return torch.autocast(self.device.type, enabled=False)
        return torch.autocast(self.device.type, dtype=getattr(torch, precision))

    @contextlib.contextmanager
    def in_eval_mode(self) -> Iterator[None]:
        """Evaluation mode without a trace: every module's mode and the global RNG are restored afterwards."""
        modes = {module: module.training for module in self.modules()}
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            self.eval()
            try:
                yield
            finally:
                for module, mode in modes.items():
                    module.training = mode

    # Training: phases, randomness, reported values.

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Marks a stretch of work ("D step", "G step", "regularizer", "sampling", ...) for those who measure it.

        Raises:
            OutOfMemoryInPhaseError: in place of torch's own error, naming the phase.
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
                    "lower the number of samples drawn at once (--quality.batch_size, --batch_size)"
                    if name in ("sampling", "metrics")
                    else "lower --data.batch_size, raise accumulation, or use a smaller model, resolution or precision"
                )
                raise OutOfMemoryInPhaseError(f"out of memory in the {name} on {self.device}: {remedy}") from error

    def seed_step(self) -> None:
        """Puts the global RNG where this training step of this rank belongs: at (seed, samples seen, rank)."""
        assert self.training_seed is not None
        torch.manual_seed(keyed_seed(self.training_seed, self.samples_seen, self.global_rank))

    def count(self, batch: int) -> None:
        """Adds the samples of one finished training step, over all ranks."""
        self.samples_seen += batch
        self.steps += 1

    def observe(self, name: str, value: Tensor) -> None:
        """Adds a value to those that are reported, as their mean, at the next report. Never waits for the device."""
        total, count = self._observed.get(name, (None, 0))
        value = value.detach().mean().float()
        self._observed[name] = (value if total is None else total + value, count + 1)

    def reported(self) -> dict[str, float]:
        """The means of what was observed since the last call; waits for the device once."""
        if not self._observed:
            return {}
        names, pairs = list(self._observed), list(self._observed.values())
        self._observed = {}
        means = torch.stack([total / count for total, count in pairs]).tolist()
        return dict(zip(names, means, strict=True))

    # Lightning's hooks.

    def on_fit_start(self) -> None:
        """Fixes the seed of the run, once: a run that resumes keeps its own."""
        if self.training_seed is None:
            self.training_seed = torch.initial_seed()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing by default: samples are judged by the quality callback. Families with a likelihood report it here."""

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

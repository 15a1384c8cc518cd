"""How good the samples are, while training: the Fréchet distance on EfficientNet-Lite0's features, FD-EffNet.

It is not the FID, which is defined on another network's features, and the two are never compared.
"""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.budget import budget_of
from callbacks.intervals import Interval
from callbacks.lookup import data_of, find, model_of
from callbacks.run import run_of
from callbacks.stops import Stops
from metrics.cache import cached_statistics
from metrics.efficientnet import EfficientNetFeatures
from metrics.frechet import GaussianStatistics, frechet_distance
from metrics.pictures import to_uint8
from models.base import GenerativeModel, SamplerSettings

NAME = "fd_effnet"


class ReferenceData(Protocol):
    """What a datamodule offers for reference statistics."""

    fingerprint: str

    def size(self, split: Any) -> int: ...  # noqa: ANN401 - the datamodule's own literal type
    def examples(self, split: Any, indices: Sequence[int]) -> tuple[Tensor, Tensor]: ...  # noqa: ANN401


class Quality(Callback):
    """Logs `fd_effnet` at intervals and at the end of a fit, and once in `validate` and `test`.

    Weights, mode and RNG stay as they were: a fit with and without it ends in the same weights. Real statistics are
    computed once for a data set and kept in the cache.

    Args:
        every_kimg: thousand samples between two measurements; a tenth of the budget where left out (50 without one).
        num_samples: samples of the model; the figure's bias depends on it, so only equal numbers compare.
        reference: the split of the data that samples are compared with.
        reference_samples: its first so many examples; all where left out.
        resolution: side that pictures are resized to before the network, in pixels.
        precision: of the feature network.
        batch_size: samples drawn at once.
        seed: of the samples.
        weights: the generator's average or the raw weights.
        cache_dir: where real statistics are kept; the user's cache folder where left out.
    """

    def __init__(
        self,
        every_kimg: float | None = None,
        num_samples: int = 2048,
        reference: Literal["train", "test"] = "train",
        reference_samples: int | None = None,
        resolution: int = 64,
        precision: Literal["float32", "bfloat16"] = "float32",
        batch_size: int = 128,
        seed: int = 0,
        weights: Literal["ema", "raw"] = "ema",
        cache_dir: str | None = None,
    ) -> None:
        if num_samples < 2 or (reference_samples is not None and reference_samples < 2):
            raise ValueError("quality.num_samples and quality.reference_samples must be at least 2")
        if batch_size < 1:
            raise ValueError(f"quality.batch_size must be at least 1, not {batch_size}")
        self.every_kimg, self.num_samples, self.reference = every_kimg, num_samples, reference
        self.reference_samples, self.resolution, self.precision = reference_samples, resolution, precision
        self.batch_size, self.seed, self.weights, self.cache_dir = batch_size, seed, weights, cache_dir
        self._interval = Interval(every_kimg or 50.0)
        self._measured_at = -1
        self._extractor: EfficientNetFeatures | None = None
        self._real: GaussianStatistics | None = None

    # When.

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reads the weights and asks for the split now: what is missing should be said before the first batch."""
        if self._pictures(pl_module):
            self._extractor = EfficientNetFeatures(self.resolution, self.precision).to(pl_module.device)
            _reference_of(trainer).size(self.reference)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._interval = Interval(self.every_kimg or (budget_of(trainer).kimg or 500.0) / 10)
        self._interval.start(model_of(pl_module).samples_seen)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        model = model_of(pl_module)
        if self._interval.passed(model.samples_seen) or budget_of(trainer).reached(model.samples_seen):
            value = self._measure(trainer, model, self.reference)
            if value is not None:
                model.log(NAME, value, logger=False)  # for ModelCheckpoint(monitor=...)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last figure, unless a signal ended the fit: then what counts is to be gone soon."""
        if not _interrupted(trainer):
            self._measure(trainer, model_of(pl_module), self.reference)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._measure(trainer, model_of(pl_module), self.reference)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._measure(trainer, model_of(pl_module), "test")

    # What.

    def _measure(self, trainer: Trainer, model: GenerativeModel, split: str) -> float | None:
        """Measures and reports; None where there is nothing to measure, or nothing new, or no time."""
        if not self._pictures(model) or self._measured_at == model.samples_seen:
            return None
        self._measured_at = model.samples_seen
        if self._extractor is None:
            self._extractor = EfficientNetFeatures(self.resolution, self.precision).to(model.device)
        with model.phase("metrics"):
            if self._real is None:
                self._real = self._real_statistics(trainer, split)
            fake = self._gathered(trainer, self._samples(trainer, model))
            if fake is None:
                return None
            value = frechet_distance(self._real, fake)
        run = run_of(trainer)
        run.write(trainer, {NAME: value})
        protocol = self.protocol(trainer, model, split)
        figure = {"value": value, "samples_seen": model.samples_seen, "protocol": protocol}
        figures = run.record.get("figures", {})
        best = figures.get(NAME, {}).get("best")
        if best is None or value < best["value"]:
            best = {"value": value, "samples_seen": model.samples_seen}
        run.save(figures={**figures, NAME: {**figure, "best": best}}, samples_seen=model.samples_seen)
        return value

    def protocol(self, trainer: Trainer, model: GenerativeModel, split: str) -> dict[str, Any]:
        """All that the figure depends on besides the model's weights."""
        assert self._extractor is not None
        assert self._real is not None
        return {
            **self._extractor.protocol(),
            "data": _reference_of(trainer).fingerprint,
            "reference": split,
            "reference_samples": self._real.count,
            "num_samples": self.num_samples,
            "seed": self.seed,
            "sampler": {**vars(self._settings(model))},
        }

    def _settings(self, model: GenerativeModel) -> SamplerSettings:
        return model.settings_class(weights=self.weights)

    def _samples(self, trainer: Trainer, model: GenerativeModel) -> Iterator[Tensor]:
        """This rank's share of the samples; ends early when a signal asks the fit to stop."""
        for indices in _batches(_share(trainer, self.num_samples), self.batch_size):
            if _interrupted(trainer):
                return
            yield to_uint8(model.sample(indices, seed=self.seed, settings=self._settings(model)))

    def _real_statistics(self, trainer: Trainer, split: str) -> GaussianStatistics:
        data = _reference_of(trainer)
        size = data.size(split)
        count = min(self.reference_samples or size, size)
        assert self._extractor is not None
        key = f"{data.fingerprint} {split} {count} {sorted(self._extractor.protocol().items())}"

        def compute() -> GaussianStatistics:
            assert self._extractor is not None
            statistics = GaussianStatistics.empty(self._extractor.dimension)
            for indices in _batches(range(count), self.batch_size):
                statistics.update(self._extractor(to_uint8(data.examples(split, indices)[0])))
            return statistics

        if self.cache_dir is None:
            folder = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "atelier" / "statistics"
        else:
            folder = Path(self.cache_dir)
        # One rank computes, the others then find the file.
        if trainer.is_global_zero:
            statistics = cached_statistics(folder, key, compute)
            trainer.strategy.barrier()
            return statistics
        trainer.strategy.barrier()
        return cached_statistics(folder, key, compute)

    def _gathered(self, trainer: Trainer, samples: Iterator[Tensor]) -> GaussianStatistics | None:
        """The statistics of all ranks' samples; None if the measurement was cut short."""
        assert self._extractor is not None
        mine = GaussianStatistics.empty(self._extractor.dimension)
        for pictures in samples:
            mine.update(self._extractor(pictures))
        if trainer.world_size > 1:
            states: list[Any] = [None] * trainer.world_size
            dist.all_gather_object(states, mine.state())
            mine = GaussianStatistics.empty(self._extractor.dimension)
            for state in states:
                mine.merge(GaussianStatistics.from_state(state))
        return mine if mine.count == self.num_samples else None

    @staticmethod
    def _pictures(module: LightningModule) -> bool:
        """Whether the model makes what the feature network can look at."""
        shape = model_of(module).data_shape
        return len(shape) == 3 and shape[0] in (1, 3)


def _reference_of(trainer: Trainer) -> ReferenceData:
    data = data_of(trainer)
    if data is None:
        raise ValueError("the quality callback needs a datamodule to compare with")
    return data


def _interrupted(trainer: Trainer) -> bool:
    stops = find(trainer, Stops)
    return stops is not None and stops.received is not None


def _share(trainer: Trainer, count: int) -> range:
    """This rank's part of range(count): no index twice, none left out."""
    rank, world = trainer.global_rank, trainer.world_size
    return range(count * rank // world, count * (rank + 1) // world)


def _batches(indices: range, size: int) -> Iterator[range]:
    return (indices[i * size : (i + 1) * size] for i in range(math.ceil(len(indices) / size)))

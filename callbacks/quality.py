"""How good the samples are, while training: figures of the evaluation engine, each with its protocol.

By default the Fréchet distance on EfficientNet-Lite0's features, FD-EffNet. It is not the FID, which is defined on
another network's features, and the two are never compared.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import Callback, LightningModule, Trainer

from callbacks.budget import budget_of
from callbacks.intervals import Interval
from callbacks.lookup import data_of, find, model_of
from callbacks.measuring import ReferenceData, in_batches, model_samples, real_pictures
from callbacks.run import run_of
from callbacks.stops import Stops
from metrics.cache import default_folder
from metrics.evaluation import Figure, check_metrics, figures, headline
from metrics.extractors import Extractor, make_extractor
from metrics.observation import Observation, share_of
from metrics.precision import Precision
from metrics.reference import Metric, Reference
from metrics.resize import Filter
from models.base import GenerativeModel, SamplerSettings


class Quality(Callback):
    """Logs figures of quality at intervals and at the end of a fit, and once in `validate` and `test`.

    Weights, mode and RNG stay as they were: a fit with and without it ends in the same weights. Real statistics are
    computed once for a data set and kept in the cache.

    Args:
        every_kimg: thousand samples between two measurements; a tenth of the budget where left out (50 without one).
        num_samples: samples of the model; a figure's bias depends on it, so only equal numbers compare.
        metrics: what to measure: frechet, kernel (1,000 samples at least), inception_score, precision_recall,
            density_coverage, lpips, class_accuracy (of a conditional model), modes (of drawn shapes). One pass over
            samples and features serves them all.
        extractor: whose features: effnet, inception (the FID's; its weights are downloaded at first use), or the path
            of a TorchScript file.
        extractor_weights: a file with inception's weights, where they are not to be downloaded.
        resize: filter by which pictures come to the extractor's size: bicubic (antialiased, as clean-fid) or
            tf1-bilinear (the legacy one).
        resolution: side that pictures are resized to before the network, in pixels; the extractor's own where left out
            (64 for effnet).
        precision: of the extractor.
        reference: the split of the data that samples are compared with.
        reference_samples: so many of its examples, drawn with a fixed seed; all where left out.
        batch_size: samples drawn at once.
        seed: of the samples.
        weights: the generator's average or the raw weights.
        cache_dir: where real statistics are kept; the user's cache folder where left out.
    """

    def __init__(
        self,
        every_kimg: float | None = None,
        num_samples: int = 2048,
        metrics: Sequence[Metric] = ("frechet",),
        extractor: str = "effnet",
        extractor_weights: str | None = None,
        resize: Filter = "bicubic",
        resolution: int | None = None,
        precision: Precision = "float32",
        reference: Literal["train", "test"] = "train",
        reference_samples: int | None = None,
        batch_size: int = 128,
        seed: int = 0,
        weights: Literal["ema", "raw"] = "ema",
        cache_dir: str | None = None,
    ) -> None:
        if num_samples < 2 or (reference_samples is not None and reference_samples < 2):
            raise ValueError("quality.num_samples and quality.reference_samples must be at least 2")
        if batch_size < 1:
            raise ValueError(f"quality.batch_size must be at least 1, not {batch_size}")
        self.every_kimg, self.num_samples, self.metrics = every_kimg, num_samples, list(metrics)
        self.extractor, self.extractor_weights = extractor, extractor_weights
        self.resize, self.resolution, self.precision = resize, resolution, precision
        self.reference, self.reference_samples = reference, reference_samples
        self.batch_size, self.seed, self.weights, self.cache_dir = batch_size, seed, weights, cache_dir
        self._interval = Interval(every_kimg or 50.0)
        self._measured_at = -1
        self._network: Extractor | None = None
        self._real: Reference | None = None

    # When.

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reads the weights and asks for the split now: what is missing should be said before the first batch."""
        if self.applies(model_of(pl_module)):
            self._prepare(trainer, model_of(pl_module), self.reference)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._interval = Interval(self.every_kimg or (budget_of(trainer).kimg or 500.0) / 10)
        self._interval.start(model_of(pl_module).samples_seen)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        model = model_of(pl_module)
        if self._interval.passed(model.samples_seen) or budget_of(trainer).reached(model.samples_seen):
            for name, figure in self._measure(trainer, model, self.reference).items():
                model.log(name, figure.value, logger=False)  # for ModelCheckpoint(monitor=...)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last figures, unless a signal ended the fit: then what counts is to be gone soon."""
        if not _interrupted(trainer):
            self._measure(trainer, model_of(pl_module), self.reference)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._measure(trainer, model_of(pl_module), self.reference)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._measure(trainer, model_of(pl_module), "test")

    # What.

    def _prepare(self, trainer: Trainer, model: GenerativeModel, split: str) -> tuple[Extractor, Reference]:
        """The network and the real pictures, made once; says what could not be measured.

        Raises:
            ValueError: in one line, with the keys.
        """
        network = self.network(model.device)
        if self._real is None:
            real = real_pictures(_reference_of(trainer), split, self.reference_samples)
            fake = model_samples(model, self.num_samples, self.seed, self._settings(model))
            try:
                check_metrics(self.metrics, network, real, fake, real.count)
            except ValueError as error:
                raise ValueError(f"quality.metrics: {error}") from error
            folder = default_folder() if self.cache_dir is None else Path(self.cache_dir)
            self._real = Reference(real, network, folder, self.batch_size)
            run_of(trainer).headline = headline(self.metrics, network)
        return network, self._real

    def network(self, device: torch.device) -> Extractor:
        """The feature network, made at the first call.

        Raises:
            ValueError: in one line, if there is none of this name, or its weights are not to be had.
        """
        if self._network is None:
            try:
                self._network = make_extractor(
                    self.extractor,
                    resolution=self.resolution,
                    resize=self.resize,
                    precision=self.precision,
                    weights=self.extractor_weights,
                ).to(device)
            except ValueError as error:
                raise ValueError(f"quality.extractor: {error}") from error
        return self._network

    def _measure(self, trainer: Trainer, model: GenerativeModel, split: str) -> dict[str, Figure]:
        """Measures and reports; nothing where there is nothing to measure, or nothing new, or no time."""
        if not self.applies(model) or self._measured_at == model.samples_seen:
            return {}
        self._measured_at = model.samples_seen
        network, real = self._prepare(trainer, model, split)
        with model.phase("metrics"):
            if trainer.is_global_zero:
                real.prepare(self.metrics)
            found = self._figures(trainer, model, network, real)
        if found:
            self._report(trainer, model, found, self._protocol(model, network, real, split))
        return found

    def _figures(
        self, trainer: Trainer, model: GenerativeModel, network: Extractor, real: Reference
    ) -> dict[str, Figure]:
        """The figures of all ranks' samples, the same on every rank; empty if a signal cut the measurement short."""
        settings = self._settings(model)
        fake = model_samples(model, self.num_samples, self.seed, settings)
        share = share_of(self.num_samples, trainer.global_rank, trainer.world_size)
        modes = real.pictures.modes
        seen = Observation(self.metrics, network, self.num_samples, share, real.folder, modes, model.device)
        for pictures, labels in in_batches(fake, share, self.batch_size, lambda: _interrupted(trainer)):
            seen.update(pictures, labels)
        found: dict[str, Figure] | ValueError = {}
        if seen.gather() and seen.complete:
            try:
                found = figures(self.metrics, real, seen)
            except ValueError as error:  # every rank must hear of it: the others wait for an answer
                found = error
        found = trainer.strategy.broadcast(found)
        if isinstance(found, ValueError):
            raise found
        return found

    def _report(
        self, trainer: Trainer, model: GenerativeModel, found: dict[str, Figure], protocol: dict[str, Any]
    ) -> None:
        run = run_of(trainer)
        run.write(trainer, {name: figure.value for name, figure in found.items()})
        kept = dict(run.record.get("figures", {}))
        for name, figure in found.items():
            now = {"value": figure.value, "samples_seen": model.samples_seen}
            best = kept.get(name, {}).get("best")
            if figure.better and (best is None or _is_better(figure, best["value"])):
                best = now
            spread = {} if figure.spread is None else {"spread": figure.spread}
            kept[name] = {**now, **spread, "protocol": {**protocol, **figure.settings}, "best": best}
        run.save(figures=kept, samples_seen=model.samples_seen)

    def _protocol(self, model: GenerativeModel, network: Extractor, real: Reference, split: str) -> dict[str, Any]:
        """All that the figures depend on besides the model's weights."""
        return {
            **network.protocol(),
            "data": real.pictures.fingerprint.split()[0],
            "reference": split,
            "reference_samples": real.count,
            "num_samples": self.num_samples,
            "seed": self.seed,
            "sampler": {**vars(self._settings(model))},
        }

    def _settings(self, model: GenerativeModel) -> SamplerSettings:
        return model.settings_class(weights=self.weights)

    @staticmethod
    def applies(model: GenerativeModel) -> bool:
        """Whether the model makes what the feature network can look at."""
        return len(model.data_shape) == 3 and model.data_shape[0] in (1, 3)


def _is_better(figure: Figure, best: float) -> bool:
    return figure.value < best if figure.better == "lower" else figure.value > best


def _reference_of(trainer: Trainer) -> ReferenceData:
    data: ReferenceData | None = data_of(trainer)
    if data is None:
        raise ValueError("the quality callback needs a datamodule to compare with")
    return data


def _interrupted(trainer: Trainer) -> bool:
    stops = find(trainer, Stops)
    return stops is not None and stops.received is not None

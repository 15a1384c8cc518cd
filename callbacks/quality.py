"""Measures the quality of samples during training, each figure with its protocol.

The default is FD-EffNet, the Fréchet distance on EfficientNet-Lite0's features. It is not the FID, which is defined on
another network's features; the two are never compared.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningModule, Trainer

from callbacks.intervals import Measures
from callbacks.lookup import data_of, model_of
from callbacks.picture_sets import DataSet, held_out, in_batches, model_samples, real_pictures, reconstructions
from callbacks.ranks import brought_together
from callbacks.run import run_of
from callbacks.stops import interrupted
from features.extractors import Extractor, make_extractor
from features.precision import Precision
from features.resize import Filter
from metrics.cache import default_folder
from metrics.evaluation import chosen, figures, headline, needs_of, require_available
from metrics.metric import Context
from metrics.picture_set import PictureSet
from metrics.real_statistics import RealStatistics
from metrics.sample_statistics import SampleStatistics, share_of
from models.training.base import GenerativeModel
from models.training.capabilities import Encodes
from records.evaluation import NUM_SAMPLES
from records.figures import Figure
from settings.sampling import SamplerSettings


class Quality(Measures):
    """Logs quality figures at intervals and at the end of a fit, and once in `validate` and `test`.

    A model without samples, such as a VQ-VAE without a prior, is measured on its reconstructions of held-out pictures;
    the names of these figures begin with reconstruction_.

    Weights, mode and RNG are left unchanged: a fit ends in the same weights with and without it. Real statistics are
    computed once per dataset and cached.

    Args:
        num_samples: number of samples. A figure's bias depends on it, so only equal numbers compare.
        metrics: names from `metrics.evaluation.METRICS`: frechet, kernel, inception_score, precision_recall ... One
            pass
            over samples and features serves them all.
        extractor: the feature extractor: effnet, inception (of the FID; weights are downloaded at first use), or the
            path
            of a TorchScript file.
        extractor_weights: a file with inception's weights, to avoid the download.
        resize: filter that resizes pictures for the extractor: bicubic (antialiased, as clean-fid) or tf1-bilinear (the
            legacy one).
        resolution: side of the network's input, in pixels; the extractor's own if left out (64 for effnet).
        precision: precision of the extractor.
        reference: the split that samples are compared with.
        reference_samples: number of its examples, drawn with a fixed seed; all if left out.
        batch_size: samples per batch.
        seed: seed of the samples.
        weights: averaged or raw weights of the generator.
        cache_dir: folder of cached real statistics; the user's cache folder if left out.
    """

    def __init__(
        self,
        every_kimg: float | None = None,
        num_samples: int = NUM_SAMPLES,
        metrics: Sequence[str] = ("frechet",),
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
        super().__init__(every_kimg)
        try:
            self.metrics = chosen(metrics)
        except ValueError as error:
            raise ValueError(f"quality.metrics: {error}") from error
        self.num_samples = num_samples
        self.extractor, self.extractor_weights = extractor, extractor_weights
        self.resize, self.resolution, self.precision = resize, resolution, precision
        self.reference, self.reference_samples = reference, reference_samples
        self.batch_size, self.seed, self.weights, self.cache_dir = batch_size, seed, weights, cache_dir
        self._network: Extractor | None = None
        self._real: RealStatistics | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Loads the extractor and the split early, to report missing files before the first batch."""
        if self.applies(model_of(pl_module)):
            self._prepare(trainer, model_of(pl_module), self.reference)

    def _prepare(self, trainer: Trainer, model: GenerativeModel, split: str) -> tuple[Extractor, RealStatistics]:
        """The extractor and the real statistics, created once. Raises ValueError, naming the key, if they cannot be."""
        network = self.network(model.device)
        if self._real is None:
            real = real_pictures(_reference_of(trainer), split, self.reference_samples)
            fake = self._judged(trainer, model)
            try:
                require_available(self.metrics, Context(network, real, fake, real.count))
            except ValueError as error:
                raise ValueError(f"quality.metrics: {error}") from error
            self._real = RealStatistics(real, network, self.cache, self.batch_size)
            name, better = headline(self.metrics, network)
            run_of(trainer).headline = (_logged_name(model, name), better)
        return network, self._real

    @property
    def cache(self) -> Path:
        """The folder of cached real statistics."""
        return default_folder() if self.cache_dir is None else Path(self.cache_dir)

    def network(self, device: torch.device) -> Extractor:
        """The extractor, created at the first call. Raises ValueError if it or its weights are missing."""
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

    def measure(self, trainer: Trainer, model: GenerativeModel, testing: bool) -> dict[str, Figure]:
        """The figures of samples, compared with the test split in `test`; see `Measures.measure`."""
        split = "test" if testing else self.reference
        network, real = self._prepare(trainer, model, split)
        with model.phase("metrics"):
            if trainer.is_global_zero:
                real.prepare(needs_of(self.metrics))
            found = self._figures(trainer, model, network, real)
        if found:
            run_of(trainer).keep_figures(trainer, found, self._protocol(trainer, model, network, real, split))
        return found

    def _figures(
        self, trainer: Trainer, model: GenerativeModel, network: Extractor, real: RealStatistics
    ) -> dict[str, Figure]:
        """The figures of all ranks' samples, the same on every rank; empty if a signal interrupts the measurement."""
        fake = self._judged(trainer, model)
        share = share_of(fake.count, trainer.global_rank, trainer.world_size)
        modes = real.pictures.modes
        seen = SampleStatistics(needs_of(self.metrics), network, fake.count, share, real.folder, modes, model.device)
        for pictures, labels in in_batches(fake, share, self.batch_size, lambda: interrupted(trainer)):
            seen.update(pictures, labels)
        found: dict[str, Figure] | ValueError = {}
        if brought_together(trainer, seen) and seen.complete:
            try:
                found = figures(self.metrics, real, seen)
            except ValueError as error:  # every rank must learn of it: the others wait
                found = error
        found = trainer.strategy.broadcast(found)
        if isinstance(found, ValueError):
            raise found
        return {_logged_name(model, name): figure for name, figure in found.items()}

    def _judged(self, trainer: Trainer, model: GenerativeModel) -> PictureSet:
        """The model's samples, or its reconstructions of held-out pictures if it has none."""
        if model.why_no_samples is None:
            return model_samples(model, self.num_samples, self.seed, self._settings(model))
        data = _reference_of(trainer)
        split = held_out(data)
        pictures = real_pictures(data, split, min(self.num_samples, data.size(split)))
        return reconstructions(model, pictures, self._settings(model))

    def _protocol(
        self, trainer: Trainer, model: GenerativeModel, network: Extractor, real: RealStatistics, split: str
    ) -> dict[str, Any]:
        """Everything that the figures depend on besides the model's weights."""
        judged = self._judged(trainer, model)
        return {
            **network.protocol(),
            "data": real.pictures.fingerprint,
            "reference": split,
            "reference_samples": real.count,
            "num_samples": judged.count,
            **({} if model.why_no_samples is None else {"samples": judged.name}),
            "seed": self.seed,
            "sampler": {**vars(self._settings(model))},
        }

    def _settings(self, model: GenerativeModel) -> SamplerSettings:
        settled: SamplerSettings = model.settled(model.settings_class(weights=self.weights))
        return settled

    @staticmethod
    def applies(model: GenerativeModel) -> bool:
        """Whether the model makes pictures that an extractor can read."""
        shows = model.why_no_samples is None or isinstance(model, Encodes)
        return shows and len(model.data_shape) == 3 and model.data_shape[0] in (1, 3)


def _logged_name(model: GenerativeModel, figure: str) -> str:
    """The name of a figure; figures of reconstructions have a prefix."""
    return figure if model.why_no_samples is None else f"reconstruction_{figure}"


def _reference_of(trainer: Trainer) -> DataSet:
    data: DataSet | None = data_of(trainer)
    if data is None:
        raise ValueError("the quality callback needs a datamodule to compare with")
    return data

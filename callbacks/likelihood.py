"""Measures the likelihood of held-out samples during training, in bits per dimension."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from callbacks.intervals import Measures
from callbacks.lookup import data_of, model_of
from callbacks.picture_sets import DataSet, held_out
from callbacks.ranks import gathered
from callbacks.run import run_of
from callbacks.stops import interrupted
from metrics.bits_per_dimension import BETTER, PREFIX, bits_per_dimension
from metrics.picture_set import drawn
from metrics.sample_statistics import share_of
from models.training.base import GenerativeModel
from models.training.capabilities import HasLikelihood
from records.evaluation import LIKELIHOOD_SAMPLES
from records.figures import LIKELIHOOD, Figure
from settings.likelihood import LikelihoodSettings


def likelihood_settings(model: HasLikelihood, named: Mapping[str, Any]) -> LikelihoodSettings:
    """The family's settings with the named values, except None. Raises ValueError if the family lacks a setting."""
    given = {name: value for name, value in named.items() if value is not None}
    known = {field.name for field in dataclasses.fields(model.likelihood_class)}
    if unknown := given.keys() - known:
        raise ValueError(f"the likelihood of {type(model).__name__} has no {min(unknown)}")
    return model.likelihood_class(**given)


def log_probs(
    model: HasLikelihood,
    data: DataSet,
    split: str,
    indices: Sequence[int],
    batch_size: int,
    seed: int,
    settings: LikelihoodSettings,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Tensor]:
    """The log-probabilities of these examples, float64 (n,) for each batch; ends early if `stop` returns True."""
    for start in range(0, len(indices), batch_size):
        if stop():
            return
        some = indices[start : start + batch_size]
        x, labels = (tensor.to(model.device) for tensor in data.examples(split, some))
        yield model.log_prob(x, labels, indices=some, seed=seed, settings=settings)


def likelihood_protocol(
    model: HasLikelihood, data: DataSet, split: str, count: int, seed: int, settings: LikelihoodSettings
) -> dict[str, Any]:
    """Everything that a likelihood depends on besides the model's weights."""
    return {
        LIKELIHOOD: model.likelihood_kind,
        "data": data.fingerprint,
        "data_shape": list(model.data_shape),
        "reference": split,
        "reference_samples": count,
        "seed": seed,
        "settings": dict(vars(settings)),
    }


class Likelihood(Measures):
    """Logs `bits_per_dim` (of text, `bits_per_character`) at intervals and at the end, and in `validate` and `test`.

    It applies to models with a likelihood; if that is expensive, only when `every_kimg` is given. Examples come from
    the "test" split. If there is none, they are training examples, as the protocol says.

    Args:
        num_samples: number of examples, drawn with a fixed seed.
        draws: random draws per example: importance samples of a VAE, or noises of dequantisation. If left out, the
            family's own (1). More give a tighter bound.
        steps: steps of the ODE, if the model solves one; the family's own if left out.
        batch_size: examples per batch.
        seed: seed of the draws.
        weights: averaged weights, if the model keeps them, or raw ones.
    """

    def __init__(
        self,
        every_kimg: float | None = None,
        num_samples: int = LIKELIHOOD_SAMPLES,
        draws: int | None = None,
        steps: int | None = None,
        batch_size: int = 128,
        seed: int = 0,
        weights: Literal["ema", "raw"] = "ema",
    ) -> None:
        if min(num_samples, batch_size) < 1:
            raise ValueError("likelihood.num_samples and likelihood.batch_size must be at least 1")
        super().__init__(every_kimg)
        self.num_samples, self.draws, self.steps = num_samples, draws, steps
        self.batch_size, self.seed, self.weights = batch_size, seed, weights

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises ValueError before the first batch if the likelihood cannot be measured."""
        model = model_of(pl_module)
        if not self.applies(model):
            if self.every_kimg is not None:
                why = model.why_no_likelihood if isinstance(model, HasLikelihood) else None
                raise ValueError(f"likelihood.every_kimg: {why or f'{type(model).__name__} has no likelihood'}")
            return
        self._settings(model)
        run = run_of(trainer)
        if run.headline is None:
            run.headline = (self._name(model), BETTER)

    def measure(self, trainer: Trainer, model: GenerativeModel, testing: bool) -> dict[str, Figure]:
        """The bits per dimension of held-out examples; see `Measures.measure`."""
        assert isinstance(model, HasLikelihood)
        data: DataSet = data_of(trainer)
        split, settings = held_out(data), self._settings(model)
        indices = drawn(data.size(split), self.num_samples)
        share = share_of(len(indices), trainer.global_rank, trainer.world_size)
        mine = indices[share.start : share.stop]
        stop = functools.partial(interrupted, trainer)
        batches = log_probs(model, data, split, mine, self.batch_size, self.seed, settings, stop)
        own = torch.cat([torch.empty(0, dtype=torch.float64), *(batch.cpu() for batch in batches)])
        found = torch.cat(gathered(trainer, own))
        if len(found) < len(indices):  # interrupted by a signal
            return {}
        measured = {self._name(model): bits_per_dimension(found, math.prod(model.data_shape))}
        protocol = likelihood_protocol(model, data, split, len(indices), self.seed, settings)
        run_of(trainer).keep_figures(trainer, measured, protocol)
        return measured

    def _settings(self, model: GenerativeModel) -> LikelihoodSettings:
        assert isinstance(model, HasLikelihood)
        try:
            return likelihood_settings(model, {name: getattr(self, name) for name in ("weights", "draws", "steps")})
        except ValueError as error:
            raise ValueError(f"likelihood: {error}") from error

    @staticmethod
    def _name(model: GenerativeModel) -> str:
        assert isinstance(model, HasLikelihood)
        return f"{PREFIX}{model.likelihood_unit}"

    def applies(self, model: GenerativeModel) -> bool:
        """Whether the model has a likelihood that is cheap or asked for."""
        if not isinstance(model, HasLikelihood) or model.why_no_likelihood is not None:
            return False
        return self.every_kimg is not None or not model.likelihood_on_demand

"""How probable a model holds samples that it was not trained on, while training: bits a dimension."""

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
from records.figures import LIKELIHOOD, Figure
from settings.likelihood import LikelihoodSettings


def likelihood_settings(model: HasLikelihood, named: Mapping[str, Any]) -> LikelihoodSettings:
    """The family's settings with what is named; None leaves one out.

    Raises:
        ValueError: the family has no such setting.
    """
    given = {name: value for name, value in named.items() if value is not None}
    known = {field.name for field in dataclasses.fields(model.likelihood_class)}
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(f"the likelihood of {type(model).__name__} has no {unknown[0]}")
    return model.likelihood_class(**given)


def some_indices(size: int, count: int | None) -> list[int]:
    """`count` of `size` examples, drawn with a fixed seed, as `PictureSet.subset` draws them; all where left out."""
    return drawn(size, size if count is None else count)


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
    """The log-probabilities of these examples, float64 (n,), batch by batch; ends early when `stop` says so."""
    for start in range(0, len(indices), batch_size):
        if stop():
            return
        some = indices[start : start + batch_size]
        x, labels = (tensor.to(model.device) for tensor in data.examples(split, some))
        yield model.log_prob(x, labels, indices=some, seed=seed, settings=settings)


def likelihood_protocol(
    model: HasLikelihood, data: DataSet, split: str, count: int, seed: int, settings: LikelihoodSettings
) -> dict[str, Any]:
    """All that a likelihood depends on besides the model's weights."""
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

    Of a model that has a likelihood; of one that computes it at great cost, only where `every_kimg` is given. Held-out
    examples are those of the "test" split; where there is none, training's own are taken, and the protocol says so.

    Args:
        num_samples: so many examples, drawn with a fixed seed.
        draws: random draws an example: importance samples of a VAE, noises of dequantisation. The family's own (1)
            where left out; more give a tighter bound.
        steps: of the ODE, where the model solves one; the family's own where left out.
        batch_size: examples at once.
        seed: of the draws.
        weights: the average, where the model keeps one, or the raw weights.
    """

    def __init__(
        self,
        every_kimg: float | None = None,
        num_samples: int = 1000,
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
        """Says before the first batch what cannot be measured."""
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
        """The bits of held-out examples; see `Measures.measure`."""
        assert isinstance(model, HasLikelihood)
        data: DataSet = data_of(trainer)
        split, settings = held_out(data), self._settings(model)
        indices = some_indices(data.size(split), self.num_samples)
        share = share_of(len(indices), trainer.global_rank, trainer.world_size)
        mine = indices[share.start : share.stop]
        stop = functools.partial(interrupted, trainer)
        batches = log_probs(model, data, split, mine, self.batch_size, self.seed, settings, stop)
        own = torch.cat([torch.empty(0, dtype=torch.float64), *(batch.cpu() for batch in batches)])
        found = torch.cat(gathered(trainer, own))
        if len(found) < len(indices):  # cut short by a signal
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
        """Whether there is something to measure, and it is asked for."""
        if not isinstance(model, HasLikelihood) or model.why_no_likelihood is not None:
            return False
        return self.every_kimg is not None or not model.likelihood_on_demand

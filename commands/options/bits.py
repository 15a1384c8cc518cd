"""`evaluate` on likelihoods: bits per dimension of a run's held-out data."""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from callbacks.likelihood import likelihood_protocol, likelihood_settings, log_probs
from callbacks.picture_sets import held_out
from commands.options.sources import config_of_run, data_from
from metrics.bits_per_dimension import PREFIX, bits_per_dimension
from metrics.picture_set import drawn
from models.training.base import GenerativeModel
from models.training.capabilities import HasLikelihood
from records.figures import Figure
from settings.likelihood import offered


def why_not(model: GenerativeModel) -> str | None:
    """The reason why a model has no bits per dimension, or None if it has them."""
    if not isinstance(model, HasLikelihood):
        return f"{type(model).__name__} has no likelihood"
    return model.why_no_likelihood


def wanted(model: GenerativeModel | None, metrics: list[str] | None) -> bool:
    """Whether to measure bits per dimension: if asked for, or by default if the model computes them cheaply.

    Raises ValueError if they are asked for, but the model has no likelihood, or finished samples are measured.
    """
    reason = "finished samples have no likelihood; give --ckpt_path" if model is None else why_not(model)
    if metrics is None:
        return reason is None and isinstance(model, HasLikelihood) and not model.likelihood_on_demand
    asked = [metric for metric in metrics if metric.startswith(PREFIX)]
    if asked and reason is not None:
        raise ValueError(f"--metrics {asked[0]}: {reason}")
    return bool(asked)


def measured(
    model: GenerativeModel, checkpoint: Path, options: argparse.Namespace
) -> tuple[str, Figure, dict[str, Any]]:
    """The figure's name, the figure and its protocol, on held-out examples of the run's own data.

    Raises ValueError if the data is unknown, or does not fit the model.
    """
    assert isinstance(model, HasLikelihood)
    config = options.reference
    if config is None or config.suffix not in (".yaml", ".yml"):
        config = config_of_run(checkpoint)
    if config is None:
        raise ValueError(f"{checkpoint} is not in a run's folder: name its data's config by --reference x.yaml")
    data = data_from(config)
    if tuple(data.data_shape) != tuple(model.data_shape):
        raise ValueError(f"{config} has examples of {data.data_shape}, but the model has {model.data_shape}")
    if model.alphabet is not None and data.alphabet != model.alphabet:
        raise ValueError(f"{config}: its text has other characters than the model's training text; name that text")
    named = {each.name: getattr(options, f"likelihood_{each.name}") for each in offered()}
    settings = likelihood_settings(model, {"weights": options.weights, **named})
    split = held_out(data)
    indices = drawn(data.size(split), options.likelihood_samples)
    batches = log_probs(model, data, split, indices, options.batch_size, options.seed, settings)
    size = math.ceil(len(indices) / options.batch_size)
    bar = tqdm(batches, total=size, desc="Likelihoods", unit="batch", disable=not sys.stderr.isatty())
    figure = bits_per_dimension(torch.cat([some.cpu() for some in bar]), math.prod(model.data_shape))
    protocol = likelihood_protocol(model, data, split, len(indices), options.seed, settings)
    facts = {"model": type(model).__name__, "samples_seen": model.samples_seen, "device": model.device.type}
    return f"{PREFIX}{model.likelihood_unit}", figure, {**protocol, **facts}

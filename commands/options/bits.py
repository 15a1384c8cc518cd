"""The likelihood's side of `evaluate`: bits a dimension on the data that a checkpoint's run held out."""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from callbacks.likelihood import likelihood_protocol, likelihood_settings, log_probs, some_indices
from callbacks.picture_sets import held_out
from commands.options.sources import config_of_run, data_from
from metrics.bits_per_dimension import PREFIX, bits_per_dimension
from models.training.base import GenerativeModel
from models.training.capabilities import HasLikelihood
from records.figures import Figure
from settings.likelihood import offered


def why_not(model: GenerativeModel) -> str | None:
    """Why a model has no bits a dimension, in a few words; None if it has."""
    if not isinstance(model, HasLikelihood):
        return f"{type(model).__name__} has no likelihood"
    return model.why_no_likelihood


def wanted(model: GenerativeModel | None, metrics: list[str] | None) -> bool:
    """Whether bits a dimension are to be measured: if asked for, or if all is and the model has them at no great cost.

    Raises:
        ValueError: they are asked for, and the model has none, or finished samples are measured.
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
    """The figure's name, the figure and its protocol, on the held-out examples of the run's own data.

    Raises:
        ValueError: the data are not known, or not the model's; one line.
    """
    assert isinstance(model, HasLikelihood)
    config = options.reference
    if config is None or config.suffix not in (".yaml", ".yml"):
        config = config_of_run(checkpoint)
    if config is None:
        raise ValueError(f"{checkpoint} lies in no run's folder: name its data's config by --reference x.yaml")
    data = data_from(config)
    if tuple(data.data_shape) != tuple(model.data_shape):
        raise ValueError(f"{config} has examples of {data.data_shape}, and the model is of {model.data_shape}")
    if model.alphabet is not None and data.alphabet != model.alphabet:
        raise ValueError(f"{config}: its text has other characters than the model was trained on; name that text")
    if options.likelihood_samples < 1:
        raise ValueError("--likelihood_samples must be at least 1")
    named = {each.name: getattr(options, f"likelihood_{each.name}") for each in offered()}
    settings = likelihood_settings(model, {"weights": options.weights, **named})
    split = held_out(data)
    indices = some_indices(data.size(split), options.likelihood_samples)
    found = []
    with tqdm(total=len(indices), desc="Likelihoods", unit="sample", disable=not sys.stderr.isatty()) as bar:
        for some in log_probs(model, data, split, indices, options.batch_size, options.seed, settings):
            found.append(some.cpu())
            bar.update(len(some))
    figure = bits_per_dimension(torch.cat(found), math.prod(model.data_shape))
    protocol = likelihood_protocol(model, data, split, len(indices), options.seed, settings)
    facts = {"model": type(model).__name__, "samples_seen": model.samples_seen, "device": model.device.type}
    return f"{PREFIX}{model.likelihood_unit}", figure, {**protocol, **facts}

"""Weights of a finished model as the start of another: of other pictures, another resolution, other labels."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.training.base import GenerativeModel
from models.training.checkpoint import own_fields
from settings.configurable import describe

GROUPS_SHOWN = 8
"""The most groups of names in a report, so that it fits in a dozen lines."""


@dataclass(frozen=True)
class Transfer:
    """What one model took from another."""

    taken: list[str]
    """Names of this model's tensors, parameters and buffers, that have the checkpoint's values."""
    left: dict[str, str]
    """Names of those that stay as they were initialised, and why."""
    numbers: int
    """How many numbers the tensors that were taken hold."""

    def lines(self) -> list[str]:
        """What was taken and what was not, the latter by groups of names, in at most a dozen lines."""
        total = len(self.taken) + len(self.left)
        lines = [f"taken: {len(self.taken)} of {total} tensors, {self.numbers:,} numbers"]
        if self.left:
            lines.append("left as initialised:")
            lines += [f"  {group}: {', '.join(reasons)}" for group, reasons in _grouped(self.left).items()]
        return lines


def take_weights(model: GenerativeModel, checkpoint: Mapping[str, Any]) -> Transfer:
    """Copies what fits of a checkpoint's networks and averages into `model`: whole tensors, by name and shape.

    Layers of another resolution are found by their place (`GenerativeModel.lists_from_the_picture`). Nothing is cut or
    padded: where the channels of pictures or the number of labels differ, the tensors that depend on them stay as they
    were initialised. Counters, seed, and the states of optimizers and augmentation are the new run's own; `origin`,
    which says whose the weights are, comes along.

    Raises:
        ValueError: if the checkpoint is of another family, or no parameter of it fits.
    """
    own = own_fields(dict(checkpoint))
    theirs, mine = own["model"].get("class_path"), describe(model)["class_path"]
    if theirs != mine:
        raise ValueError(f"it holds a {theirs}, and weights of one family mean nothing to another, {mine}")
    offered = checkpoint.get("state_dict", {})
    if not isinstance(offered, dict) or not all(isinstance(value, Tensor) for value in offered.values()):
        raise ValueError("its state_dict is not one of tensors")
    wanted = _transferable(model)
    places = dict(zip(_places(list(offered), model.lists_from_the_picture), offered.values(), strict=True))
    pairs: list[tuple[Tensor, Tensor]] = []
    taken: list[str] = []
    left: dict[str, str] = {}
    for (name, tensor), place in zip(wanted.items(), _places(list(wanted), model.lists_from_the_picture), strict=True):
        found = places.get(place)
        if found is None:
            left[name] = "not in the checkpoint"
        elif found.shape != tensor.shape:
            left[name] = "of another shape there"
        else:
            taken.append(name)
            pairs.append((tensor, found))
    parameters = {name for name, _ in model.named_parameters()}
    if parameters.isdisjoint(taken):
        raise ValueError("no weight of it has the name and shape of one of this model's: are widths the same?")
    with torch.no_grad():
        for tensor, found in pairs:
            tensor.copy_(found)
    model.origin = own.get("origin")
    return Transfer(taken, left, sum(tensor.numel() for tensor, _ in pairs))


def _transferable(model: GenerativeModel) -> dict[str, Tensor]:
    """Parameters and buffers of networks and averages, by their names in the model's state dict."""
    kept = {id(module) for module in [*model.networks().values(), *model.averages().values()]}
    prefixes = tuple(f"{name}." for name, module in model.named_modules() if id(module) in kept)
    return {name: tensor for name, tensor in model.state_dict().items() if name.startswith(prefixes)}


def _places(names: Sequence[str], lists: Sequence[str]) -> list[str]:
    """Each name with the indices of `lists` counted from the end: -1 for the last."""
    places = list(names)
    for each in lists:
        pattern = re.compile(rf"{re.escape(each)}\.(\d+)\.")
        matches = [pattern.match(name) for name in names]
        count = max((int(match[1]) + 1 for match in matches if match), default=0)
        for i, match in enumerate(matches):
            if match:
                places[i] = f"{each}.{int(match[1]) - count}.{names[i][match.end() :]}"
    return places


def _grouped(left: Mapping[str, str]) -> dict[str, list[str]]:
    """Counts of reasons by the longest common beginnings of names of which there are at most `GROUPS_SHOWN`."""
    split = {name: name.split(".") for name in left}
    depths = range(max(map(len, split.values())), 0, -1)
    depth = next((d for d in depths if len({tuple(parts[:d]) for parts in split.values()}) <= GROUPS_SHOWN), 1)
    counts: dict[str, dict[str, int]] = {}
    for name, reason in left.items():
        group = counts.setdefault(".".join(split[name][:depth]), {})
        group[reason] = group.get(reason, 0) + 1
    return {group: [f"{count} {reason}" for reason, count in found.items()] for group, found in counts.items()}

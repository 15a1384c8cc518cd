"""Starts a model from the weights of another, trained on other pictures, another resolution or other labels."""

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
"""The most groups of names in a report, so that it has at most a dozen lines."""


@dataclass(frozen=True)
class Transfer:
    """The result of copying weights from one model into another."""

    taken: list[str]
    """This model's parameters and buffers that got the checkpoint's values."""
    left: dict[str, str]
    """Those that keep their initial values, and why."""
    numbers: int
    """The number of values in the tensors that were copied."""

    def lines(self) -> list[str]:
        """A report in at most a dozen lines; the tensors that were left out are grouped by name."""
        total = len(self.taken) + len(self.left)
        lines = [f"taken: {len(self.taken)} of {total} tensors, {self.numbers:,} numbers"]
        if self.left:
            lines.append("left as initialised:")
            lines += [f"  {group}: {', '.join(reasons)}" for group, reasons in _grouped(self.left).items()]
        return lines


def take_weights(model: GenerativeModel, checkpoint: Mapping[str, Any]) -> Transfer:
    """Copies the tensors of a checkpoint's networks and averages that fit `model` by name and shape.

    Layers of another resolution are found by their position (`GenerativeModel.lists_from_the_picture`). No tensor is
    cut or
    padded: where the channels of pictures or the number of labels differ, the dependent tensors keep their initial
        values. Counters, seed, and the states of optimizers and augmentation belong to the new run. `origin`, the
        source of imported weights, is copied too.

    Raises ValueError if the checkpoint is of another family, or no parameter of it fits.
    """
    own = own_fields(dict(checkpoint))
    theirs, mine = own["model"].get("class_path"), describe(model)["class_path"]
    if theirs != mine:
        raise ValueError(f"it holds a {theirs}; weights of one family do not fit another, {mine}")
    offered = checkpoint.get("state_dict", {})
    if not isinstance(offered, dict) or not all(isinstance(value, Tensor) for value in offered.values()):
        raise ValueError("its state_dict does not hold tensors")
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
            left[name] = "of another shape in the checkpoint"
        else:
            taken.append(name)
            pairs.append((tensor, found))
    parameters = {name for name, _ in model.named_parameters()}
    if parameters.isdisjoint(taken):
        raise ValueError("none of its weights has the name and shape of one of this model's: are widths the same?")
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
    """The names, with the indices of `lists` counted from the end: -1 for the last."""
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
    """Counts of reasons, grouped by prefixes long enough for at most `GROUPS_SHOWN` groups."""
    split = {name: name.split(".") for name in left}
    depths = range(max(map(len, split.values())), 0, -1)
    depth = next((d for d in depths if len({tuple(parts[:d]) for parts in split.values()}) <= GROUPS_SHOWN), 1)
    counts: dict[str, dict[str, int]] = {}
    for name, reason in left.items():
        group = counts.setdefault(".".join(split[name][:depth]), {})
        group[reason] = group.get(reason, 0) + 1
    return {group: [f"{count} {reason}" for reason, count in found.items()] for group, found in counts.items()}

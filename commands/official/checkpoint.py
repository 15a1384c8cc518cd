"""What a reader of others' checkpoints hands over, and the checkpoint that is made of it.

A reader, of which there is one for each official code, turns files into plain data: what to build, by class path, and
tensors under our names. So it imports no family, whose names it knows by heart; that they fit is checked here, tensor
by tensor.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from commands.official.pickles import Record

FILTER = (1, 3, 3, 1)
"""What our pictures are resampled with, each way."""


@dataclass
class Foreign:
    """A model that others trained.

    Args:
        description: class path and arguments, as `settings.configurable.build` takes them.
        networks: the state dict of each, under our names: "generator" and "average.module", and "discriminator" where
            there was one; else it begins anew.
        origin: what the checkpoint says of where it comes from: "code" and "licence" at least.
        fresh: names of the model's other tensors, which the source does not have.
        notes: what the user is to know, a line each.
        samples_seen: training examples, where the source says how many.
    """

    description: dict[str, Any]
    networks: dict[str, dict[str, Tensor]]
    origin: dict[str, str]
    fresh: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    samples_seen: int | None = None


def checkpoint_of(foreign: Foreign, samples_seen: int) -> dict[str, Any]:
    """A checkpoint of these weights, without states of optimizers.

    Raises:
        ValueError: if the tensors are not those of the model described, with the name of the first that is not.
    """
    import lightning

    from settings.configurable import build

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of what begins anew: the same file imports to the same checkpoint
        model = build(foreign.description)
    state = model.state_dict()
    given = {f"{network}.{name}": value for network, own in foreign.networks.items() for name, value in own.items()}
    if unknown := sorted(given.keys() - state.keys()):
        raise ValueError(f"{type(model).__name__} has no {unknown[0]}, nor the {len(unknown) - 1} others left over")
    for name, value in state.items():
        if name not in given:
            if name not in foreign.fresh and name.startswith(tuple(f"{network}." for network in foreign.networks)):
                raise ValueError(f"it lacks what {type(model).__name__} has as {name}")
        elif given[name].shape != value.shape:
            raise ValueError(f"{name} has shape {tuple(given[name].shape)}, not {tuple(value.shape)}")
        elif not torch.isfinite(given[name]).all():
            raise ValueError(f"{name} is not finite")
    model.load_state_dict({**state, **given})
    model.samples_seen, model.origin = samples_seen, foreign.origin
    checkpoint = {
        "pytorch-lightning_version": lightning.__version__,
        "epoch": 0,
        "global_step": 0,
        "state_dict": model.state_dict(),
    }
    model.on_save_checkpoint(checkpoint)
    return checkpoint


def refuse_others(arguments: dict[str, Any], owner: str, known: dict[str, Any]) -> None:
    """Raises ValueError for an argument that is not among `known` with that value: our networks have no such choice.

    Args:
        arguments: what `owner` was constructed with; what it shares with `known` under an ellipsis may be anything.
        owner: as messages call it.
        known: names and the one value that we have; `...` for any.
    """
    for name, value in arguments.items():
        if name not in known or (known[name] is not ... and value != known[name]):
            raise ValueError(f"its {owner} was made with {name} = {value!r}, which there is not here")


def networks_of(
    content: dict[str, Any], generator: str, discriminator: str
) -> tuple[Record, Record, Record | None, list[str]]:
    """A snapshot's G, G_ema and D, if it has one, and notes on what others take the place of.

    Args:
        content: of the snapshot's pickle.
        generator: the name of the class that G and G_ema must be of.
        discriminator: likewise, D.

    Raises:
        ValueError: if there is no G_ema, or another object than a network.
    """
    records = {name: content.get(name) for name in ("G", "D", "G_ema")}
    for name, expected in (("G", generator), ("G_ema", generator), ("D", discriminator)):
        found = records[name]
        if found is not None and not (isinstance(found, Record) and found.class_name == expected):
            raise ValueError(f"its {name} is no {expected}")
    average, raw, critic = records["G_ema"], records["G"], records["D"]
    notes = []
    if average is None:
        raise ValueError("it has no G_ema, the averaged generator")
    if raw is None:
        raw = average
        notes.append("it has no raw generator: the averaged one takes its place")
    if critic is None:
        notes.append("it has no discriminator: a new one takes its place")
    return raw, average, critic, notes


def without_filters(network: Record, called: str) -> dict[str, Tensor]:
    """A network's tensors but its low-pass filters, of which ours keep one.

    Args:
        network: the network.
        called: the last part of the filters' names.

    Raises:
        ValueError: if one of them is another filter.
    """
    taps = torch.tensor(FILTER, dtype=torch.float32)
    expected = torch.outer(taps, taps) / 64
    kept = {}
    for name, value in network.state_dict().items():
        if name.rpartition(".")[2] != called:
            kept[name] = value
        elif value.shape != expected.shape or not torch.allclose(value, expected):
            raise ValueError(f"its {name} is not the filter {list(FILTER)}")
    return kept

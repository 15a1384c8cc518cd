"""The result of reading an official checkpoint, and its conversion to a checkpoint of ours.

A reader for each official code returns plain data: a class path, arguments, and tensors under our names. It imports no
family. Whether the tensors fit the family is checked here, one by one.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from commands.official.pickles import Record
from models.parts.ops import RESAMPLE_TAPS


@dataclass
class Foreign:
    """A model trained by others.

    Args:
        description: class path and arguments, for `settings.configurable.build`.
        networks: state dicts under our names: "generator", "average.module", and "discriminator" if there is one.
            Otherwise a new one is initialized.
        origin: the source, for the checkpoint: "code", "licence" and more.
        fresh: names of other tensors of the model, which the source lacks.
        notes: messages to the user, a line each.
        samples_seen: training examples, if the source states them.
    """

    description: dict[str, Any]
    networks: dict[str, dict[str, Tensor]]
    origin: dict[str, str]
    fresh: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    samples_seen: int | None = None


def checkpoint_of(foreign: Foreign, samples_seen: int) -> dict[str, Any]:
    """A checkpoint of these weights, without optimizer states.

    Raises ValueError, naming the first tensor that does not fit the described model.
    """
    import lightning

    from settings.configurable import build

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # for new networks: a file always imports to the same checkpoint
        model = build(foreign.description)
    state = model.state_dict()
    given = {f"{network}.{name}": value for network, own in foreign.networks.items() for name, value in own.items()}
    if unknown := sorted(given.keys() - state.keys()):
        raise ValueError(f"{type(model).__name__} has no {unknown[0]}; {len(unknown)} of the file's tensors do not fit")
    for name, value in state.items():
        if name not in given:
            if name not in foreign.fresh and name.startswith(tuple(f"{network}." for network in foreign.networks)):
                raise ValueError(f"it lacks {name} of our {type(model).__name__}")
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
    """Raises ValueError for an argument that is not in `known`, or has another value than there; `...` allows any."""
    for name, value in arguments.items():
        if name not in known or (known[name] is not ... and value != known[name]):
            raise ValueError(f"its {owner} has {name} = {value!r}, which is not supported")


def networks_of(
    content: dict[str, Any], generator: str, discriminator: str
) -> tuple[Record, Record, Record | None, list[str]]:
    """A snapshot's G, G_ema and D, if it has one, which must have the given classes; and notes on replacements.

    Raises ValueError if there is no G_ema, or an object has another class.
    """
    records = {name: content.get(name) for name in ("G", "D", "G_ema")}
    for name, expected in (("G", generator), ("G_ema", generator), ("D", discriminator)):
        found = records[name]
        if found is not None and not (isinstance(found, Record) and found.class_name == expected):
            raise ValueError(f"its {name} is not a {expected}")
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
    """A network's tensors without its low-pass filters, whose names end in `called`.

    Raises ValueError if a filter differs from ours.
    """
    taps = torch.tensor(RESAMPLE_TAPS, dtype=torch.float32)
    expected = torch.outer(taps, taps) / 64
    kept = {}
    for name, value in network.state_dict().items():
        if name.rpartition(".")[2] != called:
            kept[name] = value
        elif value.shape != expected.shape or not torch.allclose(value, expected):
            raise ValueError(f"its {name} is not the filter {list(RESAMPLE_TAPS)}")
    return kept

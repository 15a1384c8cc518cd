"""What a reader of others' checkpoints hands over, and the checkpoint that is made of it.

A reader, of which there is one for each official code, turns files into plain data: what to build, by class path, and
tensors under our names. So it imports no family, whose names it knows by heart; that they fit is checked here, tensor
by tensor.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Foreign:
    """A model that others trained.

    Args:
        description: class path and arguments, as `models.part.build` takes them.
        networks: the state dict of each, under our names: "generator" and "average.module", and "discriminator" where
            there was one; else it begins anew.
        origin: what the checkpoint says of where it comes from: "code" and "licence" at least.
        fresh: names of the model's other tensors, which the source does not have.
        notes: what the user is to know, a line each.
    """

    description: dict[str, Any]
    networks: dict[str, dict[str, Tensor]]
    origin: dict[str, str]
    fresh: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


def checkpoint_of(foreign: Foreign, samples_seen: int) -> dict[str, Any]:
    """A checkpoint of these weights, without states of optimizers.

    Raises:
        ValueError: if the tensors are not those of the model described, with the name of the first that is not.
    """
    import lightning

    from models.part import build

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

"""Stops a fit when a loss or a weight is not finite, before a good checkpoint is overwritten."""

import math

import torch
from lightning import Callback, LightningModule, Trainer

from callbacks.lookup import model_of
from callbacks.ranks import any_rank
from callbacks.run import run_of
from models.training.base import GenerativeModel

REMEDY = (
    "training has diverged. The last good checkpoint is kept; usual causes are a learning rate that is too high, a "
    "missing regularizer, or 16-bit precision (try --trainer.precision 32-true)"
)


class NonFiniteError(RuntimeError):
    """A loss or a weight became NaN or infinite; the message says which, and the usual remedies."""


class Guard(Callback):
    """Checks every report of the losses, and the weights before each checkpoint.

    This costs no extra synchronization, since reports fetch the losses anyway. All ranks stop at the same batch: if one
    raised alone, the others would wait for its gradients.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        broken = [f"{name} is {value}" for name, value in run_of(trainer).latest.items() if not math.isfinite(value)]
        if any_rank(trainer, bool(broken), batch_idx):
            raise _diverged(broken[0] if broken else "a loss on another device is not finite", model_of(pl_module))


def require_finite_weights(model: GenerativeModel) -> None:
    """Raises NonFiniteError, naming the network, if a weight is NaN or infinite."""
    for name, network in model.networks().items():
        norms = torch.stack(torch._foreach_norm(tuple(network.parameters())))
        if not bool(norms.isfinite().all()):
            raise _diverged(f"weights of the {name} are not finite", model)


def _diverged(what: str, model: GenerativeModel) -> NonFiniteError:
    return NonFiniteError(f"{what} after {model.samples_seen / 1000:.1f} kimg: {REMEDY}")

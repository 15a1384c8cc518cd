"""A generator for export: one module without Lightning, training code or random numbers, which can be traced."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Deployed(nn.Module):
    """Latents float32 (N, latent_dim), and labels int64 (N,) if there are classes, to samples (N, *shape) in [-1, 1].

    It copies `network` to the CPU in float32, and `draw` gives samples from the copy, latents and labels; by default
    its forward pass.
    """

    def __init__(self, network: nn.Module, draw: Callable[[Any, Tensor, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        own = copy.deepcopy(network).to("cpu", torch.float32).to(memory_format=torch.contiguous_format)
        self.network, self.draw = own.requires_grad_(False).eval(), draw

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        if labels is None:
            labels = torch.zeros(z.shape[0], dtype=torch.int64, device=z.device)
        return self.network(z, labels) if self.draw is None else self.draw(self.network, z, labels)

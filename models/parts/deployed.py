"""A generator as others use it: one module without Lightning, training, or a random draw, that can be traced."""

import copy

import torch
from torch import Tensor, nn


class Deployed(nn.Module):
    """Latents float32 (N, latent_dim), and labels int64 (N,) if there are classes, to samples (N, *shape) in [-1, 1].

    Args:
        network: of `forward(z, labels)`. It is copied, to the CPU and in float32, and trained no more.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        own = copy.deepcopy(network).to("cpu", torch.float32).to(memory_format=torch.contiguous_format)
        self.network = own.requires_grad_(False).eval()

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        if labels is None:
            labels = torch.zeros(z.shape[0], dtype=torch.int64, device=z.device)
        return self.samples(z, labels)

    def samples(self, z: Tensor, labels: Tensor) -> Tensor:
        """What a family overrides that does more to its network's output, or less."""
        return self.network(z, labels)

"""Attention between places, or tokens: one block for every family."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.parts.layers import SpectralConv2d


class Memory:
    """Keys and values of the earlier tokens, of one attention layer, for drawing one token at a time."""

    def __init__(self, length: int) -> None:
        self.length, self.filled = length, 0
        self.kept: Tensor | None = None

    def with_next(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Adds those of the next token, (N, heads, 1, D) each; returns those of all, (N, heads, filled, D)."""
        if self.kept is None:
            number, heads, _, size = keys.shape
            self.kept = keys.new_empty(2, number, heads, self.length, size)
        self.kept[0, :, :, self.filled : self.filled + 1] = keys
        self.kept[1, :, :, self.filled : self.filled + 1] = values
        self.filled += 1
        return self.kept[0, :, :, : self.filled], self.kept[1, :, :, : self.filled]


class Attention(nn.Module):
    """out(sum_j softmax_j(scale q_i . k_j) v_j), in heads (Vaswani et al. 2017, section 3.2).

    The caller adds norms before it, and the residual connection.

    Args:
        project: gives queries, keys and values of its input: joined along the channels, or a tuple of three.
        out: applied to the heads' values, joined again.
        heads: which share the channels.
        scale: of the products; by default 1 / sqrt(channels of a head).
        twice: makes it twice differentiable, for gradient penalties; torch's fused attention is not.
    """

    def __init__(
        self, project: nn.Module, out: nn.Module, heads: int = 1, scale: float | None = None, twice: bool = False
    ) -> None:
        super().__init__()
        self.project, self.out = project, out
        self.heads, self.scale, self.twice = heads, scale, twice

    def forward(
        self,
        x: Tensor,
        placed: Callable[[Tensor], Tensor] | None = None,
        memory: Memory | None = None,
        causal: bool = False,
    ) -> Tensor:
        """From pictures' features (N, C, H, W), or tokens (N, length, C), to the same shape.

        `placed` adds positions to queries and keys, (N, heads, length, D). If there is a `memory` of the earlier
        tokens, `x` is the next one. `causal` lets a token see only itself and earlier ones.
        """
        found = self.project(x)
        parts = [_as_tokens(part) for part in found] if isinstance(found, tuple) else _as_tokens(found).chunk(3, dim=2)
        queries, keys, values = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        if placed is not None:
            queries, keys = placed(queries), placed(keys)
        if memory is not None:
            keys, values = memory.with_next(keys, values)
        if self.twice:
            scale = queries.shape[-1] ** -0.5 if self.scale is None else self.scale
            likeness = scale * queries @ keys.transpose(2, 3)
            if causal:
                later = torch.ones_like(likeness[0, 0], dtype=torch.bool).triu(1)
                likeness = likeness.masked_fill(later, -torch.inf)
            seen = likeness.softmax(-1) @ values
        else:
            seen = F.scaled_dot_product_attention(queries, keys, values, is_causal=causal, scale=self.scale)
        mixed = seen.transpose(1, 2).flatten(2)
        return self.out(mixed if x.ndim == 3 else mixed.transpose(1, 2).unflatten(2, x.shape[2:]))


def _as_tokens(x: Tensor) -> Tensor:
    """Features (N, C, H, W) as tokens (N, H W, C), in raster order; tokens are returned unchanged."""
    return x if x.ndim == 3 else x.flatten(2).transpose(1, 2)


class PooledProjections(nn.Module):
    """Queries of a picture's features, and keys and values at half the side, by spectrally normalised maps."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.theta = SpectralConv2d(channels, channels // 8, 1, bias=False, eps=eps)
        self.phi = SpectralConv2d(channels, channels // 8, 1, bias=False, eps=eps)
        self.g = SpectralConv2d(channels, channels // 2, 1, bias=False, eps=eps)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.theta(x), F.max_pool2d(self.phi(x), 2), F.max_pool2d(self.g(x), 2)


class SelfAttention(nn.Module):
    """Self-attention over places (Zhang et al. 2019, section 3, as in its released code): x + gamma * attention(x).

    Keys and values are max-pooled by 2. gamma starts at 0, so that the layer starts as the identity. With projections
    theta, phi (to channels/8) and g, o (through channels/2), at places i of the picture and j of the pooled one:
    attention(x)_i = o(sum_j softmax_j(theta(x)_i . phi(x)_j) g(x)_j). `eps` belongs to the spectral norms.
    """

    def __init__(self, channels: int, eps: float = 1e-12) -> None:
        super().__init__()
        if channels < 8:
            raise ValueError(f"self-attention projects to an eighth of its channels and needs 8, not {channels}")
        project = PooledProjections(channels, eps)
        out = SpectralConv2d(channels // 2, channels, 1, bias=False, eps=eps)
        self.attention = Attention(project, out, scale=1.0, twice=True)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * self.attention(x)

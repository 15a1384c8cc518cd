"""Quantizers: from a grid of continuous vectors to a grid of discrete codes, and back.

There are two: a codebook that follows averages of its vectors (van den Oord, Vinyals & Kavukcuoglu 2017,
arXiv:1711.00937, appendix A.1), and a fixed grid (finite scalar quantisation; Mentzer et al. 2024, arXiv:2309.15505).
Both use straight-through gradients, and compute in the precision of their buffers, whatever autocast says.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.parts.layers import at_least_float32
from settings.configurable import Configurable


@dataclass(frozen=True)
class Quantized:
    """The result of quantizing vectors (N, dim, h, w)."""

    values: Tensor
    """The codes' vectors, (N, dim, h, w); their gradient passes straight to the quantized vectors."""
    codes: Tensor
    """int64 (N, h, w)."""
    loss: Tensor
    """The quantizer's part of the loss of each sample, (N,)."""


class QuantizingModule(nn.Module, ABC):
    """A quantizer's state, all buffers, and its computation."""

    num_codes: int

    @abstractmethod
    def forward(self, z: Tensor) -> Quantized:
        """Quantizes z (N, dim, h, w)."""

    @abstractmethod
    def values_of(self, codes: Tensor) -> Tensor:
        """The vectors (N, dim, h, w) of codes int64 (N, h, w)."""

    def initialize(self, z: Tensor) -> None:
        """Initializes the state from the first batch's vectors, (N, dim, h, w)."""

    def note(self, z: Tensor, codes: Tensor) -> None:
        """Keeps a micro-batch, z (N, dim, h, w) and its codes (N, h, w), for the step's `update`."""

    def update(self, total: Callable[[Tensor], Tensor], rank: int, ranks: int) -> None:
        """Learns from the step's micro-batches, on rank `rank` of `ranks`; `total` sums a tensor over them in place."""


class Quantizer(Configurable, ABC):
    """A configurable quantizer; `dim` is the number of values in a vector."""

    dim: int

    @abstractmethod
    def module(self) -> QuantizingModule: ...


class EMACodebook(Quantizer):
    """A codebook of vectors; each is the moving average of the vectors assigned to it.

    Args:
        codes: number of codes.
        dim: values of each.
        decay: of the averages, per step.
        commitment: weight of the mean squared distance from the encoder's vectors to their codes (beta of equation 3).
        epsilon: Laplace smoothing of the counts, so that an unused code's share stays above zero.
        revive_below: a code that on average gets fewer vectors per step than this is moved to a vector of the batch.
            The paper has no such thing; Dhariwal et al. 2020 (arXiv:2005.00341, section 3.1) do. 0 leaves dead codes
            dead.
    """

    def __init__(
        self,
        codes: int = 512,
        dim: int = 64,
        decay: float = 0.99,
        commitment: float = 0.25,
        epsilon: float = 1e-5,
        revive_below: float = 1.0,
    ) -> None:
        if codes < 2 or dim < 1:
            raise ValueError(f"a codebook needs at least 2 codes, of at least 1 value: codes is {codes}, dim {dim}")
        if not 0 <= decay < 1:
            raise ValueError(f"decay of a codebook must be at least 0 and below 1, not {decay}")
        if commitment < 0 or epsilon <= 0 or revive_below < 0:
            raise ValueError(
                "commitment and revive_below of a codebook must not be negative, and epsilon must be positive, not "
                f"{commitment}, {revive_below} and {epsilon}"
            )
        self.codes, self.dim, self.decay, self.commitment = codes, dim, decay, commitment
        self.epsilon, self.revive_below = epsilon, revive_below

    def module(self) -> "Codebook":
        return Codebook(self)


class Codebook(QuantizingModule):
    """The vectors of an `EMACodebook`, and the averages behind them."""

    vectors: Tensor
    """(codes, dim)"""
    counts: Tensor
    """Vectors per step assigned to each code, over all ranks, averaged: N of the paper's appendix, (codes,)."""
    sums: Tensor
    """The sum of these vectors, averaged: m of the appendix, (codes, dim)."""

    def __init__(self, settings: EMACodebook) -> None:
        super().__init__()
        self.settings, self.num_codes = settings, settings.codes
        shape = settings.codes, settings.dim
        self.register_buffer("vectors", torch.randn(shape))
        self.register_buffer("counts", torch.ones(settings.codes))
        self.register_buffer("sums", self.vectors.clone())
        self._noted: list[tuple[Tensor, Tensor]] = []

    def forward(self, z: Tensor) -> Quantized:
        with torch.autocast(z.device.type, enabled=False):
            z = z.to(self.vectors.dtype)
            flat = _as_rows(z).detach()
            # |z - e|^2 without |z|^2, which is the same for all codes.
            distances = self.vectors.square().sum(1) - 2 * flat @ self.vectors.T
            codes = distances.argmin(1).view(len(z), *z.shape[2:])
            values = self.values_of(codes)
            distance = (z - values).square().flatten(1).mean(1)
            return Quantized(_straight_through(values, z), codes, self.settings.commitment * distance)

    def values_of(self, codes: Tensor) -> Tensor:
        return F.embedding(codes, self.vectors).movedim(-1, 1)

    @torch.no_grad()
    def initialize(self, z: Tensor) -> None:
        flat = _as_rows(z.to(self.vectors.dtype))
        self.vectors.copy_(flat[_chosen(len(flat), self.num_codes, flat.device)])
        # Small counts: an untrained encoder's vectors lie close together, few codes are chosen, and the others soon
        # become free to move elsewhere.
        self.counts.fill_(1.0)
        self.sums.copy_(self.vectors)

    def note(self, z: Tensor, codes: Tensor) -> None:
        self._noted.append((_as_rows(z.detach().to(self.vectors.dtype)), codes.flatten()))

    @torch.no_grad()
    def update(self, total: Callable[[Tensor], Tensor], rank: int, ranks: int) -> None:
        """Equations 6 to 8 of appendix A.1, with Laplace smoothing as in the authors' code; then dead codes."""
        settings, noted = self.settings, self._noted
        self._noted = []
        counts, sums = torch.zeros_like(self.counts), torch.zeros_like(self.sums)
        for flat, codes in noted:
            counts.index_add_(0, codes, torch.ones_like(codes, dtype=counts.dtype))
            sums.index_add_(0, codes, flat)
        self.counts.lerp_(total(counts), 1 - settings.decay)
        self.sums.lerp_(total(sums), 1 - settings.decay)
        whole = self.counts.sum()
        smoothed = (self.counts + settings.epsilon) / (whole + self.num_codes * settings.epsilon) * whole
        self.vectors.copy_(self.sums / smoothed[:, None])
        if settings.revive_below:
            self._revive(noted[-1][0], total, rank, ranks)

    def _revive(self, flat: Tensor, total: Callable[[Tensor], Tensor], rank: int, ranks: int) -> None:
        """Moves codes that are hardly used to vectors of this rank, `flat`, (places, dim).

        Each rank proposes vectors for its own share of the codes, so that the sum of the proposals is the same on all.
        """
        proposed = flat[_chosen(len(flat), self.num_codes, flat.device)]
        mine = torch.arange(self.num_codes, device=flat.device) % ranks == rank
        proposed = total(torch.where(mine[:, None], proposed, 0.0))
        least = self.settings.revive_below
        dead = self.counts < least
        # With this count a code survives if, in the next step, it gets `least` vectors.
        self.counts.copy_(torch.where(dead, least, self.counts))
        self.sums.copy_(torch.where(dead[:, None], least * proposed, self.sums))
        self.vectors.copy_(torch.where(dead[:, None], proposed, self.vectors))


class FiniteScalar(Quantizer):
    """Rounds each value of a vector to one of a few levels; a code is a combination of levels, and nothing is learned.

    Args:
        levels: of each value. The paper's for 2^8, 2^10 and 2^12 codes are [8, 6, 5], [8, 5, 5, 5] and [7, 5, 5, 5, 5].
    """

    def __init__(self, levels: Sequence[int] = (8, 5, 5, 5)) -> None:
        if not levels or min(levels) < 2:
            raise ValueError(f"levels must be at least one number, each at least 2, not {list(levels)}")
        self.levels = list(levels)
        self.dim = len(self.levels)

    def module(self) -> "ScalarGrid":
        return ScalarGrid(self.levels)


class ScalarGrid(QuantizingModule):
    """The grid of a `FiniteScalar`; its vectors lie in [-1, 1]."""

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.num_codes = math.prod(levels)
        self.levels: Tensor
        self.places: Tensor
        counts = torch.tensor(levels)
        self.register_buffer("levels", counts, persistent=False)
        # A code is a number whose digits are the levels, the first digit the lowest.
        places = torch.cat([torch.ones(1, dtype=torch.int64), counts.cumprod(0)[:-1]])
        self.register_buffer("places", places, persistent=False)

    def forward(self, z: Tensor) -> Quantized:
        with torch.autocast(z.device.type, enabled=False):
            z = at_least_float32(z)
            bounded = self._bounded(z)
            rounded = bounded.round()
            codes = ((rounded.detach() + self._half).to(torch.int64) * self._column(self.places)).sum(1)
            values = _straight_through(rounded, bounded) / self._half
            return Quantized(values, codes, z.new_zeros(len(z)))

    def values_of(self, codes: Tensor) -> Tensor:
        levels = codes[:, None] // self._column(self.places) % self._column(self.levels)
        return (levels - self._half) / self._half

    def _bounded(self, z: Tensor) -> Tensor:
        """z on the axis of levels, which are integers: function `bound` of the paper's appendix A.1."""
        levels = self._column(self.levels).to(z.dtype)
        reach = (levels - 1) * (1 - 1e-3) / 2
        # An even number of levels has one more below 0 than above.
        offset = torch.where(levels % 2 == 1, 0.0, 0.5)
        return torch.tanh(z + torch.tan(offset / reach)) * reach - offset

    @property
    def _half(self) -> Tensor:
        return self._column(self.levels // 2)

    def _column(self, x: Tensor) -> Tensor:
        return x.view(-1, 1, 1)


def perplexity(counts: Tensor) -> Tensor:
    """exp of the entropy of the codes' frequencies, from counts (codes,): the effective number of codes in use."""
    shares = counts / counts.sum()
    return torch.exp(-torch.special.xlogy(shares, shares).sum())


def _straight_through(values: Tensor, z: Tensor) -> Tensor:
    """The value of `values` with the gradient of z."""
    return values.detach() + (z - z.detach())


def _as_rows(z: Tensor) -> Tensor:
    """Vectors (N, dim, h, w) as (N h w, dim)."""
    return z.movedim(1, -1).flatten(0, 2)


def _chosen(count: int, wanted: int, device: torch.device) -> Tensor:
    """`wanted` random indices below `count`, by the global RNG; without repetition if there are enough."""
    if count >= wanted:
        return torch.randperm(count, device=device)[:wanted]
    return torch.randint(count, (wanted,), device=device)

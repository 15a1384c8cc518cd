"""A decoder-only transformer over tokens: characters, the bytes of pictures, or another model's codes of them.

p(x) = p(x_1) p(x_2 | x_1) ... p(x_L | x_1 ... x_{L-1}) (Vaswani et al. 2017; for pictures' bytes, Child et al. 2019; as
a prior over codes, van den Oord, Vinyals & Kavukcuoglu 2017). The blocks are today's usual ones: normalisation before
each part (Xiong et al. 2020) by the root mean square (Zhang & Sennrich 2019), SwiGLU (Shazeer 2020) and rotary
positions (Su et al. 2021).
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from media.pictures import LEVELS, from_levels, to_levels
from models.parts.arguments import UNKNOWN_DATA, classes_seen, picture_shape
from models.parts.attention import Attention, Memory
from models.parts.layers import at_least_float32
from models.parts.tokens import chosen, restricted
from models.training.base import GenerativeModel
from models.training.capabilities import HasCodes, HasLikelihood
from models.training.single_loss import SingleLoss
from settings.likelihood import LikelihoodSettings
from settings.sampling import TransformerSettings
from settings.training import Optimization

SEQUENCE_BASE = 10_000.0
"""The base of rotary positions along a sequence (Su et al. 2021, section 3.2.2)."""
GRID_BASE = 100.0
"""The base along the rows and columns of a picture, which are short (Heo et al. 2024, section 3)."""


# The network.


def places(grid: Sequence[int]) -> Tensor:
    """The place of each token of a grid in raster order: int64 (tokens, axes)."""
    axes = [torch.arange(size) for size in grid]
    return torch.cartesian_prod(*axes).view(-1, len(grid))


def turns(positions: Tensor, pairs: int, base: float) -> Tensor:
    """Angles of rotary positions, (tokens, pairs): position x base^(-i / pairs) for pair i (Su et al. 2021, eq. 15)."""
    frequencies = base ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    return positions.double()[:, None] * frequencies


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the pairs (x_i, x_{i + D/2}) of each vector by its position's angles, so that the product of two vectors
    depends only on the difference of their positions (Su et al. 2021, eq. 34).

    x is (N, heads, tokens, D); cos and sin, of the angles, are (tokens, D/2).
    """
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


class Block(nn.Module):
    """x + attention(norm(x)), then x + SwiGLU(norm(x)); a token sees itself and those before it.

    `width` is the size of a token's vector, `hidden` of the gated layer. Dropout applies to both parts' outputs.
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        project, out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.attention = Attention(project, out, heads)
        self.gate_and_value = nn.Linear(width, 2 * hidden, bias=False)
        self.mlp_out = nn.Linear(hidden, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, memory: Memory | None = None) -> Tensor:
        def placed(heads: Tensor) -> Tensor:
            return rotated(heads, cos, sin)

        seen = self.attention(self.attention_norm(x), placed, memory, causal=memory is None)
        x = x + self.dropout(seen)
        gate, value = self.gate_and_value(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.dropout(self.mlp_out(F.silu(gate) * value))


class Decoder(nn.Module):
    """Logits of every token given those before it.

    Tokens have `num_tokens` values and are drawn in the raster order of `grid`: (length,) of text, (rows, columns[,
    channels]) of pictures. On a grid, rotary positions are those of row and column, and each axis has learned vectors
    too, because a picture has borders, whereas text goes on. A sample's first input is one of `starts` vectors, that of
    its class.
    """

    def __init__(
        self, num_tokens: int, grid: Sequence[int], starts: int, width: int, depth: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.length = math.prod(grid)
        self.tokens, self.starts = nn.Embedding(num_tokens, width), nn.Embedding(starts, width)
        self.axes = nn.ModuleList(nn.Embedding(size, width) for size in grid) if len(grid) > 1 else nn.ModuleList()
        # SwiGLU has three matrices instead of two: two thirds of the usual 4 x width keep the number of weights.
        hidden = math.ceil(8 * width / 3 / 8) * 8
        self.blocks = nn.ModuleList(Block(width, heads, hidden, dropout) for _ in range(depth))
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.head = nn.Linear(width, num_tokens, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.places: Tensor
        self.cos: Tensor
        self.sin: Tensor
        where, pairs = places(grid), width // heads // 2
        self.register_buffer("places", where, persistent=False)
        if len(grid) == 1:
            angles = turns(where[:, 0], pairs, SEQUENCE_BASE)
        else:
            halves = (pairs // 2, pairs - pairs // 2)
            angles = torch.cat([turns(where[:, axis], halves[axis], GRID_BASE) for axis in (0, 1)], dim=1)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)
        self.apply(initialize)
        for name, weight in self.named_parameters():
            # GPT-2: the more blocks add to the residual path, the smaller their weights at the start.
            if name.endswith(("attention.out.weight", "mlp_out.weight")):
                nn.init.normal_(weight, 0.0, 0.02 / math.sqrt(2 * depth))

    def forward(self, tokens: Tensor, classes: Tensor) -> Tensor:
        """Logits (N, length, num_tokens) of all tokens, int64 (N, length), of samples of these classes, int64 (N,)."""
        x = torch.cat([self.starts(classes)[:, None], self.tokens(tokens[:, :-1])], dim=1)
        x = self.dropout(x + self._of_places(0, self.length))
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits: Tensor = self.head(self.norm(x))
        return logits

    def next_logits(self, inputs: Tensor, at: int, memories: Sequence[Memory]) -> Tensor:
        """Logits (N, num_tokens) of token `at`, given the input before it, (N, width), and the memories."""
        x = (inputs + self._of_places(at, at + 1))[:, None]
        for block, memory in zip(self.blocks, memories, strict=True):
            x = block(x, self.cos[at : at + 1], self.sin[at : at + 1], memory)
        logits: Tensor = self.head(self.norm(x[:, 0]))
        return logits

    def _of_places(self, start: int, stop: int) -> Tensor:
        """The learned vectors of the places of tokens [start, stop), (tokens, width); zeros for a sequence."""
        zeros = self.tokens.weight.new_zeros(stop - start, self.tokens.embedding_dim)
        here = self.places[start:stop]
        return sum((axis(here[:, number]) for number, axis in enumerate(self.axes)), zeros)

    def draw(self, classes: Tensor, uniforms: Tensor, settings: TransformerSettings) -> Tensor:
        """Tokens int64 (N, length) of samples of these classes, from uniform numbers (N, length)."""
        memories = [Memory(self.length) for _ in self.blocks]
        tokens = torch.empty(len(classes), self.length, dtype=torch.int64, device=classes.device)
        inputs = self.starts(classes)
        for at in range(self.length):
            logits = self.next_logits(inputs, at, memories)
            logits = restricted(logits, settings.temperature, settings.top_k, settings.top_p)
            tokens[:, at] = chosen(logits, uniforms[:, at])
            inputs = self.tokens(tokens[:, at])
        return tokens


def initialize(layer: nn.Module) -> None:
    """Weights from N(0, 0.02), like GPT-2's."""
    if isinstance(layer, (nn.Linear, nn.Embedding)):
        nn.init.normal_(layer.weight, 0.0, 0.02)


# The family.


class Transformer(SingleLoss, HasLikelihood):
    """A transformer whose tokens are the data's own, a picture's bytes, or another model's codes of it.

    If the data give tokens (`vocabulary_size`), it learns those. Of pictures it learns the 256-valued bytes, row by row
    and all channels of each pixel in turn, or, with `codes_from`, the codes of a trained model with `HasCodes`. That
    model is part of this one, whole and frozen, so that a checkpoint can sample by itself.

    Args:
        data_shape: (length,) of tokens, (C, H, W) of pictures.
        num_classes: number of classes in the data; used if `conditional`.
        vocabulary_size: number of tokens, if the data give tokens; 0 for pictures. Linked from the data.
        alphabet: the character of each token, if they are characters. Linked from the data.
        codes_from: a checkpoint, or a run's folder, of a model with codes, for which this one is then a prior; kept as
            that model itself.
        width: size of a token's vector; `heads` divides it into even parts.
        depth: number of blocks.
        heads: of each attention.
        dropout: in training.
        conditional: whether a sample starts with a token of its class.
        optimization: how the network is trained.
    """

    settings_class = TransformerSettings
    likelihood_kind = "exact"
    network: Decoder

    def __init__(
        self,
        data_shape: Sequence[int],
        num_classes: int = 0,
        vocabulary_size: int = 0,
        alphabet: str | None = None,
        codes_from: str | GenerativeModel | None = None,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
        conditional: bool = False,
        optimization: Optimization | None = None,
    ) -> None:
        if data_shape is None:
            raise ValueError(UNKNOWN_DATA)
        if min(width, depth, heads) < 1:
            raise ValueError(f"width, depth and heads must be at least 1, not {width}, {depth} and {heads}")
        if width % heads or width // heads % 4:
            raise ValueError(f"width: {width} is not divisible into {heads} heads of a multiple of 4 each")
        if vocabulary_size and codes_from is not None:
            raise ValueError("codes_from: this dataset gives tokens already; codes are those of pictures")
        if alphabet is not None and len(alphabet) != vocabulary_size:
            raise ValueError(f"alphabet: needs a character for each of {vocabulary_size} tokens, has {len(alphabet)}")
        coder = opened(codes_from) if isinstance(codes_from, str) else codes_from
        grid: tuple[int, ...]
        if vocabulary_size:
            if len(data_shape) != 1:
                raise ValueError(f"vocabulary_size: tokens are a sequence, but the data's shape is {tuple(data_shape)}")
            num_tokens, grid = vocabulary_size, tuple(data_shape)
        elif coder is not None:
            num_tokens, grid = codes_of(coder, data_shape)
        else:
            channels, height, side = picture_shape(data_shape)
            num_tokens, grid = LEVELS, (height, side, channels)
        starts = classes_seen(num_classes, conditional) or 1
        network = Decoder(num_tokens, grid, starts, width, depth, heads, dropout)
        super().__init__(data_shape, num_classes, network, Optimization() if optimization is None else optimization)
        self.vocabulary_size, self.alphabet, self.codes_from = vocabulary_size, alphabet, coder
        self.width, self.depth, self.heads, self.dropout = width, depth, heads, dropout
        self.conditional = conditional
        self.num_tokens, self.grid = num_tokens, grid
        if alphabet is not None:
            self.likelihood_unit = "character"

    def train(self, mode: bool = True) -> "Transformer":
        """The model of the codes stays in evaluation mode: it is never trained here."""
        super().train(mode)
        if self.codes_from is not None:
            self.codes_from.eval()
        return self

    # Samples and tokens.

    @torch.no_grad()
    def to_tokens(self, x: Tensor) -> Tensor:
        """The tokens int64 (N, length) of samples (N, *data_shape)."""
        if self.vocabulary_size:
            return x
        if self.codes_from is None:
            return to_levels(x).permute(0, 2, 3, 1).flatten(1)
        assert isinstance(self.codes_from, HasCodes)
        return self.codes_from.to_codes(x).flatten(1)

    @torch.no_grad()
    def from_tokens(self, tokens: Tensor) -> Tensor:
        """The samples (N, *data_shape) of tokens int64 (N, length)."""
        if self.vocabulary_size:
            return tokens
        if self.codes_from is None:
            return from_levels(tokens.unflatten(1, self.grid).permute(0, 3, 1, 2))
        assert isinstance(self.codes_from, HasCodes)
        return self.codes_from.from_codes(tokens.unflatten(1, self.grid))

    # The contract.

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        """The mean negative log-probability of a sample's tokens, in nats per token: (N,)."""
        tokens = self.to_tokens(x)
        found = -log_probability(self.network, tokens, self._classes(labels)) / tokens.shape[1]
        self.observe("train_bits_per_token", found / math.log(2))
        return found

    def generate(self, generators: Sequence[torch.Generator], labels: Tensor, settings: TransformerSettings) -> Tensor:
        network: Decoder = self.chosen_network(settings.weights)
        uniforms = torch.stack([torch.rand(network.length, generator=generator) for generator in generators])
        return self.from_tokens(network.draw(self._classes(labels), uniforms.to(self.device), settings))

    @property
    def why_no_likelihood(self) -> str | None:
        if self.codes_from is None:
            return None
        return (
            "this prior knows the probability of codes, not of pictures: see train_bits_per_token, or set "
            "codes_from: null"
        )

    def log_likelihood(
        self, x: Tensor, labels: Tensor, generators: Sequence[torch.Generator], settings: LikelihoodSettings
    ) -> Tensor:
        if self.why_no_likelihood is not None:
            raise ValueError(self.why_no_likelihood)
        return log_probability(self.chosen_network(settings.weights), self.to_tokens(x), self._classes(labels))

    def _classes(self, labels: Tensor) -> Tensor:
        return labels if self.conditional else torch.zeros_like(labels)


def log_probability(network: nn.Module, tokens: Tensor, classes: Tensor) -> Tensor:
    """The log-probability of whole sequences, in nats: (N,), in float32 at least whatever autocast computes in."""
    logits = at_least_float32(network(tokens, classes))
    return -F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none").sum(1)


def opened(path: str) -> GenerativeModel:
    """The model of a checkpoint. Raises FileNotFoundError or ValueError, with a remedy, if it cannot be read."""
    from models import load

    if not Path(path).is_file():
        raise FileNotFoundError(f"codes_from: no checkpoint at {path}: train that model first, or name its checkpoint")
    try:
        return load(path)
    except ValueError as error:
        raise ValueError(f"codes_from: {error}") from error


def codes_of(coder: GenerativeModel, data_shape: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """The number of codes of a model, and the shape of a sample's; freezes the model.

    Raises ValueError if it has no codes, or was trained on pictures of another shape.
    """

    if not isinstance(coder, HasCodes):
        raise ValueError(f"codes_from: a {type(coder).__name__} has no codes; name the checkpoint of a VQ-VAE")
    if tuple(coder.data_shape) != tuple(data_shape):
        raise ValueError(
            f"codes_from: its samples are of shape {coder.data_shape}, the data of {tuple(data_shape)}: set "
            "data.resolution, or name another checkpoint"
        )
    coder.requires_grad_(False)
    return coder.num_codes, tuple(coder.code_shape)

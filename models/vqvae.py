"""VQ-VAE (van den Oord, Vinyals & Kavukcuoglu 2017, arXiv:1711.00937): pictures as grids of discrete codes.

python main.py fit --config configs/vqvae_fashion_mnist.yaml

The networks and the loss are those of the authors' example in Sonnet 2, whose codebook follows moving averages.
"""

from collections.abc import Sequence
from typing import Never

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.parts.arguments import at_least, picture_shape
from models.parts.layers import at_least_float32
from models.parts.quantizers import EMACodebook, Quantized, Quantizer, QuantizingModule, perplexity
from models.parts.ranks import sum_over_ranks, world_size
from models.training.capabilities import Encodes
from models.training.single_loss import SingleLoss
from settings.sampling import SamplerSettings
from settings.training import Optimization


class ResidualBlock(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x)))) (section 4.1)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, inner, 3, padding=1)
        self.second = nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


def widths(width: int, halvings: int) -> list[int]:
    """Channels after each halving: half the width after the first, if there are several."""
    return [width // 2 if stage == 0 and halvings > 1 else width for stage in range(halvings)]


class Encoder(nn.Sequential):
    """Pictures (N, C, H, H) to vectors before quantisation, (N, dim, H / 2^halvings, H / 2^halvings)."""

    def __init__(self, channels: int, width: int, inner: int, blocks: int, halvings: int, dim: int) -> None:
        layers: list[nn.Module] = []
        before = channels
        for after in widths(width, halvings):
            layers += [nn.Conv2d(before, after, 4, 2, 1), nn.ReLU()]
            before = after
        layers += [nn.Conv2d(width, width, 3, padding=1), *(ResidualBlock(width, inner) for _ in range(blocks))]
        super().__init__(*layers, nn.ReLU(), nn.Conv2d(width, dim, 1))


class Decoder(nn.Sequential):
    """Quantized vectors (N, dim, h, h) to pictures (N, C, h 2^halvings, h 2^halvings), not clamped to [-1, 1]."""

    def __init__(self, channels: int, width: int, inner: int, blocks: int, halvings: int, dim: int) -> None:
        layers: list[nn.Module] = [nn.Conv2d(dim, width, 3, padding=1)]
        layers += [*(ResidualBlock(width, inner) for _ in range(blocks)), nn.ReLU()]
        before = width
        for after in [*widths(width, halvings)[-2::-1], channels]:
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1), nn.ReLU()]
            before = after
        super().__init__(*layers[:-1])


class QuantizedAutoencoder(nn.Module):
    """Both networks, with the quantizer between them."""

    variance: Tensor
    """The variance of the values of the first batch: the unit of squared errors."""

    def __init__(self, encoder: Encoder, quantizer: QuantizingModule, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder
        self.register_buffer("variance", torch.ones(()))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Quantized]:
        """The reconstruction of pictures x; their vectors before quantisation; the quantizer's result."""
        z = self.encoder(x)
        found: Quantized = self.quantizer(z)
        return at_least_float32(self.decoder(found.values)), z, found


class VQVAE(SingleLoss, Encodes):
    """An encoder to a grid of vectors, a quantizer, and a decoder from the quantized grid.

    The loss of a picture is its mean squared error, divided by the variance of the data's values, plus the quantizer's
    loss, which keeps the encoder near its codes. It cannot draw samples; that takes a prior over the codes, which is
    another model.

    Args:
        data_shape: (C, H, W); H = W, a multiple of 2^halvings.
        num_classes: number of classes in the data; labels are not used.
        quantizer: turns vectors into codes; by default a codebook of 512 vectors with 64 values.
        width: channels of the residual blocks; the stage next to the picture has half of them.
        residual_width: channels within a residual block.
        blocks: residual blocks in each network.
        halvings: strided convolutions, each of which halves the side: of 32 px, 2 leave 8×8 codes.
        optimization: how it is trained; by default Adam at 3e-4.
    """

    why_no_samples = (
        "a VQ-VAE has no prior over its codes and cannot draw samples: it reconstructs; train a transformer on its "
        "codes, whose config names this checkpoint"
    )
    network: QuantizedAutoencoder

    def __init__(
        self,
        data_shape: Sequence[int],
        num_classes: int = 0,
        quantizer: Quantizer | None = None,
        width: int = 128,
        residual_width: int = 32,
        blocks: int = 2,
        halvings: int = 2,
        optimization: Optimization | None = None,
    ) -> None:
        channels, height, side = picture_shape(data_shape)
        at_least(2, width=width)
        at_least(1, residual_width=residual_width, halvings=halvings)
        at_least(0, blocks=blocks)
        if height != side or side % 2**halvings:
            raise ValueError(
                f"a VQ-VAE with {halvings} halvings needs square pictures whose side is a multiple of {2**halvings}, "
                f"not {height}x{side}: set data.resolution, or halvings"
            )
        quantizer = EMACodebook() if quantizer is None else quantizer
        sizes = channels, width, residual_width, blocks, halvings, quantizer.dim
        network = QuantizedAutoencoder(Encoder(*sizes), quantizer.module(), Decoder(*sizes))
        super().__init__(data_shape, num_classes, network, optimization or Optimization(lr=3e-4))
        self.quantizer, self.halvings = quantizer, halvings
        self.width, self.residual_width, self.blocks = width, residual_width, blocks
        self._noted = 0

    # Training.

    def on_first_batch(self, x: Tensor, labels: Tensor) -> None:
        """Initializes the codebook with the encoder's vectors, and the unit of squared errors with the variance."""
        self.network.variance.copy_(x.var(correction=0).clamp(min=1e-6))
        self.network.quantizer.initialize(self.network.encoder(x))

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        made, z, found = self.network(x)
        error = (made - x).square().flatten(1).mean(1)
        self._report(error, found)
        if self.training:
            self.network.quantizer.note(z, found.codes)
            self._noted = (self._noted + 1) % self.micro_batches
            if not self._noted:  # once per step; this micro-batch's gradient needs nothing that the update changes
                self.network.quantizer.update(sum_over_ranks, self.global_rank, world_size())
        return error / self.network.variance + found.loss

    @torch.no_grad()
    def _report(self, error: Tensor, found: Quantized) -> None:
        codes = found.codes.flatten()
        counts = torch.zeros(self.num_codes, device=codes.device)
        counts.index_add_(0, codes, torch.ones_like(codes, dtype=counts.dtype))
        self.observe("squared_error", error)
        self.observe("quantizer_loss", found.loss)
        self.observe("perplexity", perplexity(counts))
        self.observe("codes_used", (counts > 0).float())  # the share of codes that occur in a micro-batch

    # The contract.

    def networks(self) -> dict[str, nn.Module]:
        return {"encoder": self.network.encoder, "decoder": self.network.decoder}

    def generate(self, generators: Sequence[torch.Generator], labels: Tensor, settings: SamplerSettings) -> Never:
        raise ValueError(self.why_no_samples)

    # Vectors and codes. Labels are ignored.

    def to_latents(self, x: Tensor, labels: Tensor, settings: SamplerSettings) -> Tensor:
        """The vectors before quantisation, (N, dim, h, w)."""
        return self.chosen_network(settings.weights).encoder(x.to(self.dtype)).float()

    @torch.no_grad()
    def decode(
        self, latents: Tensor, labels: Tensor | None = None, *, settings: SamplerSettings | None = None
    ) -> Tensor:
        """Pictures (N, *data_shape), in [-1, 1], of vectors (N, dim, h, w), which are quantized first."""
        settings = settings or SamplerSettings()
        return self.from_codes(self._codes_of(latents, settings), settings=settings)

    @property
    def code_shape(self) -> tuple[int, ...]:
        side = self.data_shape[-1] // 2**self.halvings
        return side, side

    @property
    def num_codes(self) -> int:
        return self.network.quantizer.num_codes

    @torch.no_grad()
    def to_codes(self, x: Tensor, *, settings: SamplerSettings | None = None) -> Tensor:
        """The codes of pictures (N, *data_shape): int64 (N, *code_shape)."""
        settings = settings or SamplerSettings()
        return self._codes_of(self.encode(x, settings=settings), settings)

    def _codes_of(self, latents: Tensor, settings: SamplerSettings) -> Tensor:
        found: Quantized = self.chosen_network(settings.weights).quantizer(latents)
        return found.codes

    @torch.no_grad()
    def from_codes(self, codes: Tensor, *, settings: SamplerSettings | None = None) -> Tensor:
        """The pictures (N, *data_shape), in [-1, 1], of codes int64 (N, *code_shape).

        Raises:
            ValueError: for codes of another shape, or outside 0..num_codes - 1.
        """
        settings = settings or SamplerSettings()
        if codes.shape[1:] != self.code_shape:
            raise ValueError(f"codes of shape {tuple(codes.shape[1:])}, but this model's are {self.code_shape}")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.num_codes:
            raise ValueError(f"codes must lie in 0..{self.num_codes - 1}")
        network = self.chosen_network(settings.weights)
        with self.sampling(settings):
            values = network.quantizer.values_of(codes).to(self.dtype)
            return network.decoder(values).float().clamp(-1, 1)

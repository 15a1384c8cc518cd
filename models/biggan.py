"""BigGAN (Brock, Donahue & Simonyan 2019, arXiv:1809.11096), in the form of the authors' PyTorch code.

python main.py fit --config configs/biggan_fashion_mnist.yaml

The two common settings for 32 px are arguments of one architecture. BigGAN-PyTorch's script: width 64 for both
networks, class embeddings for each layer, the whole latent at the start, no attention. StudioGAN's: width 96 for G and
48 for D (its table halves D's multipliers instead), one shared embedding, hierarchical latents, attention at 16 px, and
epsilons of 1e-4 and 1e-6. (StudioGAN's discriminator also applies its in-place ReLU to the shortcut of the later
blocks; here, as in BigGAN-PyTorch, the shortcut sees the block's input.)

Names in BigGAN-PyTorch's state dicts and here; every weight has the same shape, `u0` (1, n) is `u` (n,), `sv0` is only
logged there:
    conv_sc -> shortcut    bn1, bn2 -> norm1, norm2    bn1.stored_mean -> norm1.norm.running_mean (var likewise)
    shared -> embedding    output_layer.0 -> norm (gain -> weight)    output_layer.2 -> conv
    theta, phi, g, o -> attention.project.theta, .phi, .g, attention.out
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.parts.arguments import picture_shape
from models.parts.attention import SelfAttention
from models.parts.deployed import Deployed
from models.parts.layers import (
    BatchNorm2d,
    ConditionalBatchNorm2d,
    SpectralConv2d,
    SpectralEmbedding,
    SpectralLinear,
    Statistics,
    at_least_float32,
    normalising_by,
    standing_statistics,
    without_spectral_norm,
)
from models.parts.losses import Hinge
from models.parts.regularizers import MicroBatch, Penalty, non_orthogonality
from models.training.gan import GAN
from models.training.randomness import keyed_seed
from settings.sampling import BigGANSettings, GANSettings
from settings.training import AdversarialTraining

GENERATOR_WIDTHS = {
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
    512: (16, 16, 8, 8, 4, 2, 1, 1),
}
"""Channels, in multiples of the width, at 4 px and after each block, which doubles the side (tables 4-6, and code)."""

DISCRIMINATOR_WIDTHS = {
    32: (4, 4, 4, 4),
    64: (1, 2, 4, 8, 16),
    128: (1, 2, 4, 8, 16, 16),
    256: (1, 2, 4, 8, 8, 16, 16),
    512: (1, 1, 2, 4, 8, 8, 16, 16),
}
"""Channels, in multiples of the width, after each block."""


class GeneratorBlock(nn.Module):
    """Doubles the side: (N, inputs, H, W) to (N, outputs, 2H, 2W) (figure 15b).

    `norm` makes a batch norm for a number of channels; `eps` is that of the spectral norms.
    """

    def __init__(self, inputs: int, outputs: int, norm: Callable[[int], nn.Module], eps: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(inputs), norm(outputs)
        self.conv1 = SpectralConv2d(inputs, outputs, 3, eps=eps)
        self.conv2 = SpectralConv2d(outputs, outputs, 3, eps=eps)
        self.shortcut = SpectralConv2d(inputs, outputs, 1, eps=eps)

    def forward(self, x: Tensor, condition: Sequence[Tensor]) -> Tensor:
        """`condition` is what the norms take besides the features: nothing, or one tensor."""
        h = F.interpolate(F.relu(self.norm1(x, *condition)), scale_factor=2)
        h = self.conv2(F.relu(self.norm2(self.conv1(h), *condition)))
        # A 1x1 convolution commutes with repeating pixels, and costs a quarter before it.
        return h + F.interpolate(self.shortcut(x), scale_factor=2)


class Generator(nn.Module):
    """Latents (N, latent_dim) and labels (N,) to pictures (N, channels, resolution, resolution) in [-1, 1].

    Arguments as in `BigGAN`; `classes` is 0 for a generator without labels, `eps` belongs to the spectral norms.
    """

    def __init__(
        self,
        latent_dim: int,
        width: int,
        channels: int,
        resolution: int,
        classes: int,
        shared_dim: int | None,
        hierarchical: bool,
        attention: Sequence[int],
        norm_eps: float,
        eps: float,
    ) -> None:
        super().__init__()
        widths = [width * multiplier for multiplier in GENERATOR_WIDTHS[resolution]]
        self.hierarchical = hierarchical
        self.chunk = latent_dim // len(widths) if hierarchical else latent_dim
        # A norm is conditioned on nothing, on the label itself, or on a vector of embedding and chunk.
        self.by_label = bool(classes) and shared_dim is None
        condition = (self.chunk if hierarchical else 0) + (shared_dim or 0 if classes else 0)
        # The generator's embeddings have no spectral norm; with it, the authors found, training fails.
        self.embedding = nn.Embedding(classes, shared_dim) if classes and shared_dim else None

        def norm(features: int) -> nn.Module:
            if self.by_label:
                gain, bias = nn.Embedding(classes, features), nn.Embedding(classes, features)
                return ConditionalBatchNorm2d(features, gain, bias, norm_eps)
            if condition:
                scale, shift = (SpectralLinear(condition, features, bias=False, eps=eps) for _ in range(2))
                return ConditionalBatchNorm2d(features, scale, shift, norm_eps)
            return BatchNorm2d(features, norm_eps)

        self.linear = SpectralLinear(self.chunk, widths[0] * 16, eps=eps)
        self.blocks = nn.ModuleList()
        for i, (before, after) in enumerate(itertools.pairwise(widths)):
            stage = nn.ModuleList([GeneratorBlock(before, after, norm, eps)])
            if 8 << i in attention:
                stage.append(SelfAttention(after, eps))
            self.blocks.append(stage)
        self.norm = BatchNorm2d(widths[-1], norm_eps)
        self.conv = SpectralConv2d(widths[-1], channels, 3, eps=eps)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        chunks = z.split(self.chunk, dim=1)
        h = self.linear(chunks[0]).unflatten(1, (-1, 4, 4))
        for i, stage in enumerate(self.blocks):
            block, *attention = stage.children()
            h = block(h, self._condition(chunks, labels, i))
            for layer in attention:
                h = layer(h)
        return torch.tanh(self.conv(F.relu(self.norm(h))))

    def _condition(self, chunks: Sequence[Tensor], labels: Tensor, block: int) -> list[Tensor]:
        if self.by_label:
            return [labels]
        parts = [] if self.embedding is None else [self.embedding(labels)]
        if self.hierarchical:
            parts.append(chunks[1 + block])
        return [torch.cat(parts, dim=1)] if parts else []


class DiscriminatorBlock(nn.Module):
    """Residual block, halving the side if `down`: (N, inputs, H, W) to (N, outputs, H/2, W/2) (figure 15c).

    The `first` block sees the picture itself, and has no activation before it; `eps` is that of the spectral norms.
    """

    def __init__(self, inputs: int, outputs: int, down: bool, first: bool, eps: float) -> None:
        super().__init__()
        self.down, self.first = down, first
        self.conv1 = SpectralConv2d(inputs, outputs, 3, eps=eps)
        self.conv2 = SpectralConv2d(outputs, outputs, 3, eps=eps)
        self.shortcut = SpectralConv2d(inputs, outputs, 1, eps=eps) if down or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        # The mean of four pixels commutes with a 1x1 convolution, which is cheaper after it.
        return F.avg_pool2d(h, 2) + self.shortcut(F.avg_pool2d(x, 2)) if self.down else h + self.shortcut(x)


class Discriminator(nn.Module):
    """Pictures (N, channels, resolution, resolution) and labels (N,) to logits (N,).

    If conditional, it is a projection discriminator (Miyato & Koyama 2018, eq. 3): w . h + b + v_label . h, where h is
    the sum of the last features over places.
    """

    def __init__(
        self, width: int, channels: int, resolution: int, classes: int, attention: Sequence[int], eps: float
    ) -> None:
        super().__init__()
        widths = [channels, *(width * multiplier for multiplier in DISCRIMINATOR_WIDTHS[resolution])]
        self.blocks = nn.ModuleList()
        side = resolution
        for i, (before, after) in enumerate(itertools.pairwise(widths)):
            down = i < (2 if resolution == 32 else len(widths) - 2)  # 32 px end at 8, all others at 4
            side = side // 2 if down else side
            stage = nn.ModuleList([DiscriminatorBlock(before, after, down, i == 0, eps)])
            if down and side in attention:
                stage.append(SelfAttention(after, eps))
            self.blocks.append(stage)
        self.linear = SpectralLinear(widths[-1], 1, eps=eps)
        self.embed = SpectralEmbedding(classes, widths[-1], eps=eps) if classes else None

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        for stage in self.blocks:
            for layer in stage.children():
                x = layer(x)
        features = at_least_float32(F.relu(x)).sum((2, 3))
        with torch.autocast(x.device.type, enabled=False):  # a sum over places, and logits, are not for 16 bits
            logits = self.linear(features).squeeze(1)
            return logits if self.embed is None else logits + (self.embed(labels) * features).sum(1)


class BigGAN(GAN):
    """BigGAN, class-conditional if the data has labels. Parameters of generator and discriminator:

    70,433,988 and 87,982,370 at 128 px, 1000 classes, width 96, latent 120, shared 128, hierarchical, attention at 64.

    In training, fakes have the labels of the real batch. The authors' code draws them uniformly. That is the same
    distribution for balanced classes; otherwise the projection would learn the classes' frequencies instead.

    The average copies the generator's power iterations and running batch statistics. In sampling, each averaged weight
    is divided by the singular value that one further iteration finds for it. The authors average these vectors too,
    which gives nearly the same direction.

    Args:
        data_shape: (C, H, W); H = W, a power of two from 32 to 512.
        num_classes: number of classes in the data, 0 for none.
        width: the generator's channels, of which each stage has a multiple.
        d_width: the discriminator's, if it differs.
        latent_dim: size of the latent.
        conditional: whether both networks see the labels, if there are any.
        shared_dim: size of one class embedding for all of the generator's norms; null gives each norm its own.
        hierarchical: each block's norms see a chunk of the latent; the number of chunks, log2(H) - 1, one more than
            there are blocks, must divide `latent_dim`.
        attention: sides, in pixels, at which both networks have self-attention.
        initialization: of all weights: orthogonal (section 3), or normal, N(0, 0.02). Biases start at 0.
        norm_eps: of the batch norms.
        spectral_eps: of the spectral norms.
        orthogonal: weight of the generator's penalty on non-orthogonal filters (eq. 3), 0 for none, without the class
            embedding. Its gradient is twice that of the authors' code for the same weight, which leaves out a 2.
        d_orthogonal: the same for the discriminator.
        adversarial: how the players are trained; by default as in the paper, with its learning rates for batches of
            2048.
    """

    settings_class: ClassVar[type[GANSettings]] = BigGANSettings
    joint_pass: ClassVar[bool] = True  # as the authors' code, so that the power iteration advances once per step
    lists_from_the_picture: ClassVar[tuple[str, ...]] = ("discriminator.blocks",)

    def __init__(
        self,
        data_shape: Sequence[int],
        num_classes: int = 0,
        width: int = 64,
        d_width: int | None = None,
        latent_dim: int = 128,
        conditional: bool = True,
        shared_dim: int | None = None,
        hierarchical: bool = False,
        attention: Sequence[int] = (),
        initialization: Literal["orthogonal", "normal"] = "orthogonal",
        norm_eps: float = 1e-5,
        spectral_eps: float = 1e-12,
        orthogonal: float = 0.0,
        d_orthogonal: float = 0.0,
        adversarial: AdversarialTraining | None = None,
    ) -> None:
        channels, height, resolution = picture_shape(data_shape)
        if height != resolution or resolution not in GENERATOR_WIDTHS:
            raise ValueError(
                "BigGAN needs square pictures whose side is a power of two from 32 to 512, not "
                f"{height}x{resolution}: set data.resolution"
            )
        chunks = len(GENERATOR_WIDTHS[resolution])
        if hierarchical and latent_dim % chunks:
            raise ValueError(f"latent_dim {latent_dim} is not divisible into {chunks} chunks, as hierarchical requires")
        classes = num_classes or 0 if conditional else 0  # the base refuses None
        if hierarchical and classes and shared_dim is None:
            raise ValueError("hierarchical latents need a shared_dim: they are joined to the shared class embedding")
        if shared_dim is not None and shared_dim < 1:
            raise ValueError(f"shared_dim must be positive or null, not {shared_dim}")
        sides = [8 << i for i in range(chunks - 2)]
        if unknown := [side for side in attention if side not in sides]:
            raise ValueError(f"attention at {unknown[0]} px: both networks pass through {', '.join(map(str, sides))}")
        generator = Generator(
            latent_dim, width, channels, resolution, classes, shared_dim, hierarchical, attention, norm_eps,
            spectral_eps,
        )  # fmt: skip
        discriminator = Discriminator(d_width or width, channels, resolution, classes, attention, spectral_eps)
        for network in (generator, discriminator):
            initialize(network, initialization)
        if adversarial is None:
            adversarial = AdversarialTraining(Hinge(), lr=5e-5, d_lr=2e-4, beta1=0.0, d_steps=2)
        super().__init__(data_shape, num_classes, generator, discriminator, latent_dim, adversarial)
        self.width, self.d_width = width, d_width
        self.conditional, self.shared_dim, self.hierarchical = conditional, shared_dim, hierarchical
        self.attention = list(attention)
        self.initialization: Literal["orthogonal", "normal"] = initialization
        self.norm_eps, self.spectral_eps = norm_eps, spectral_eps
        self.orthogonal, self.d_orthogonal = orthogonal, d_orthogonal
        self._standing: dict[str, tuple[object, Statistics]] = {}

    def penalties(self) -> list[Penalty]:
        """The regularizers, and penalties on filters that are not orthogonal, if they have a weight."""
        strengths = {"generator": self.orthogonal, "discriminator": self.d_orthogonal}
        own = [self._orthogonality(network, strength) for network, strength in strengths.items() if strength]
        return [*super().penalties(), *own]

    def _orthogonality(self, network: str, strength: float) -> Penalty:
        def value(_: MicroBatch) -> Tensor:
            named = self.networks()[network].named_parameters()
            weights = [p for name, p in named if p.ndim > 1 and name != "embedding.weight"]
            return strength * non_orthogonality(weights)

        return Penalty(f"{network[0]}_orthogonal_penalty", network, 1, value, of="weights")

    # Sampling.

    def deployed(self, settings: GANSettings | None = None) -> Deployed:
        """The generator with its running statistics and plain layers, whose weights are spectrally normalised.

        Raises ValueError for standing statistics, which depend on a truncation, and so on the caller's latents.
        """
        settings = settings or BigGANSettings()
        if isinstance(settings, BigGANSettings) and settings.standing_statistics:
            raise ValueError("a generator is exported with its running statistics: standing_statistics must be 0")
        return Deployed(without_spectral_norm(self.sampled_network(settings)))

    def from_latents(self, latents: Tensor, labels: Tensor, settings: GANSettings) -> Tensor:
        if not isinstance(settings, BigGANSettings) or not settings.standing_statistics:
            return super().from_latents(latents, labels, settings)
        network = self.sampled_network(settings)
        with normalising_by(network, self._standing_statistics(network, settings)):
            return super().from_latents(latents, labels, settings)

    def _standing_statistics(self, network: nn.Module, settings: BigGANSettings) -> Statistics:
        """The statistics for these weights and settings; kept until either changes, for ema and raw weights each."""
        key = (settings, fingerprint(network))
        if settings.weights not in self._standing or self._standing[settings.weights][0] != key:
            statistics = standing_statistics(network, self._standing_batches(settings))
            self._standing[settings.weights] = (key, statistics)
        return self._standing[settings.weights][1]

    def _standing_batches(self, settings: BigGANSettings) -> Iterator[tuple[Tensor, Tensor]]:
        seed = keyed_seed(settings.standing_seed, 1)  # the seed's own latents may be those of the requested samples

        for i in range(settings.standing_statistics):
            indices = range(i * settings.standing_batch, (i + 1) * settings.standing_batch)
            latents = self.draw_latents(indices, seed=seed, settings=settings)
            yield latents.to(self.dtype), self.sample_labels(indices, seed=seed)


def initialize(network: nn.Module, how: Literal["orthogonal", "normal"]) -> None:
    """Orthogonal weights (Saxe et al. 2014), or N(0, 0.02) (Radford et al. 2016); biases 0."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear, nn.Embedding)):
            if how == "orthogonal":
                nn.init.orthogonal_(layer.weight)
            else:
                nn.init.normal_(layer.weight, 0.0, 0.02)
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None:
            nn.init.zeros_(layer.bias)


def fingerprint(network: nn.Module) -> tuple[int, ...]:
    """A hash of each weight's and buffer's bits, in order; waits for the device once."""
    hashes = [torch.hash_tensor(tensor) for tensor in network.state_dict().values()]
    return tuple(torch.stack(hashes).view(torch.int64).tolist())

"""Layers that several families use."""

import contextlib
import copy
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.parts.ranks import joint_mean, world_size


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32, or float64 if it is: under autocast, networks return 16 bits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the joint batch of all ranks, so that training does not depend on their number.

    torch's SyncBatchNorm runs on CUDA only. This one runs on any backend that can sum over ranks, and can be
    differentiated twice. A single process uses torch's ordinary kernel.
    """

    joint: bool = True
    """Whether ranks share their statistics while training."""

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.joint and world_size() > 1):
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            x32 = x if x.dtype == torch.float64 else x.float()
            count = x32.numel() // x32.shape[1] * world_size()
            # The mean first, then the mean squared deviation: E[x^2] - E[x]^2 would lose digits.
            mean = joint_mean(x32.mean((0, 2, 3)))
            centred = x32 - mean[:, None, None]
            variance = joint_mean(centred.square().mean((0, 2, 3)))
            if self.track_running_stats:
                self._update_running_statistics(mean.detach(), variance.detach() * count / (count - 1))
            normalised = centred * torch.rsqrt(variance + self.eps)[:, None, None]
            if self.affine:
                normalised = normalised * self.weight[:, None, None] + self.bias[:, None, None]
            return normalised.to(x.dtype)

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)


class ConditionalBatchNorm2d(nn.Module):
    """Batch normalisation whose scale and shift are functions of a condition (Brock et al. 2019, appendix B).

    y = x_normalised * (1 + gain(c)) + bias(c), with c the condition of each sample. `gain` and `bias` map conditions
    (N, ...) to (N, channels): linear layers for a vector, embeddings for a label.
    """

    def __init__(self, channels: int, gain: nn.Module, bias: nn.Module, eps: float = 1e-5) -> None:
        super().__init__()
        self.gain, self.bias = gain, bias
        self.norm = BatchNorm2d(channels, eps, affine=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = 1 + self.gain(condition), self.bias(condition)
        return self.norm(x) * scale[:, :, None, None] + shift[:, :, None, None]


Statistics = list[tuple[Tensor, Tensor]]
"""The mean and the variance, (channels,) each, of every batch norm of a network, in the order of its modules."""


def standing_statistics(network: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> Statistics:
    """The statistics of each batch norm's input, averaged over batches (Brock et al. 2019, appendix C.1).

    Each of `batches` holds the arguments of a forward pass. The network's batch norms, at least one `BatchNorm2d`,
    normalise each batch by itself, without sums over ranks, which would wait for ranks that do not sample. Variances
    have Bessel's correction, as running variances do. Modes and running statistics are restored.
    """
    norms = [module for module in network.modules() if isinstance(module, BatchNorm2d)]
    kept = [(norm.training, norm.momentum, norm.num_batches_tracked) for norm in norms]
    blank = [(torch.zeros_like(norm.running_mean), torch.zeros_like(norm.running_var)) for norm in norms]  # type: ignore[arg-type]
    try:
        for norm in norms:
            # Without a momentum, torch keeps the plain average over the batches.
            norm.training, norm.momentum, norm.joint = True, None, False
            norm.num_batches_tracked = torch.zeros_like(norm.num_batches_tracked)  # type: ignore[arg-type]
        with torch.no_grad(), normalising_by(network, blank):
            for batch in batches:
                network(*batch)
    finally:
        for norm, (training, momentum, tracked) in zip(norms, kept, strict=True):
            norm.training, norm.momentum, norm.num_batches_tracked, norm.joint = training, momentum, tracked, True
    return blank


@contextlib.contextmanager
def normalising_by(network: nn.Module, statistics: Statistics) -> Iterator[None]:
    """Inside, the batch norms of `network` use these running statistics; their own are restored afterwards."""
    norms = [module for module in network.modules() if isinstance(module, BatchNorm2d)]
    own = [(norm.running_mean, norm.running_var) for norm in norms]
    try:
        for norm, (mean, variance) in zip(norms, statistics, strict=True):
            norm.running_mean, norm.running_var = mean, variance
        yield
    finally:
        for norm, (own_mean, own_variance) in zip(norms, own, strict=True):
            norm.running_mean, norm.running_var = own_mean, own_variance


def spectrally_normalised(weight: Tensor, u: Tensor, eps: float, update: bool) -> Tensor:
    """`weight` (out, ...) divided by its largest singular value, estimated by one power iteration from `u` (out,).

    Miyato et al. 2018, algorithm 1, with the gradient through sigma (eq. 9-12): sigma = u^T W v, where v and then u are
    held constant. Never in 16 bits, whatever autocast says. `u` lies near the first left singular vector and may have
    any length but 0; `update` stores the iteration's result in it. Vectors are divided by no less than `eps`.
    """
    with torch.autocast(weight.device.type, enabled=False):
        matrix = weight.flatten(1)
        with torch.no_grad():
            v = F.normalize(u @ matrix, dim=0, eps=eps)
            found = F.normalize(matrix @ v, dim=0, eps=eps)
            if update:
                u.copy_(found)  # the graph keeps `found`: another pass before the backward pass may update u again
        sigma = found @ (matrix @ v)
        return weight / sigma


class SpectralConv2d(nn.Conv2d):
    """A convolution of stride 1 whose weight has spectral norm 1 (Miyato et al. 2018), padded to keep the size.

    In training mode each forward pass advances the iteration. In evaluation mode it starts from `u` without changing
    it, so that weights for which `u` was not found, such as an average's, are divided by (nearly) their own largest
    singular value. `u` depends on the weights alone, so ranks with the same weights have the same `u`.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, bias: bool = True, eps: float = 1e-12) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
        self.eps = eps
        self.u: Tensor
        self.register_buffer("u", F.normalize(torch.randn(outputs), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        weight = spectrally_normalised(self.weight, self.u, self.eps, update=self.training)
        return self._conv_forward(x, weight, self.bias)


class SpectralLinear(nn.Linear):
    """A linear layer whose weight has spectral norm 1; see `SpectralConv2d`."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True, eps: float = 1e-12) -> None:
        super().__init__(inputs, outputs, bias)
        self.eps = eps
        self.u: Tensor
        self.register_buffer("u", F.normalize(torch.randn(outputs), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, spectrally_normalised(self.weight, self.u, self.eps, update=self.training), self.bias)


class SpectralEmbedding(nn.Embedding):
    """Vectors for labels, whose table (labels, features) has spectral norm 1; see `SpectralConv2d`."""

    def __init__(self, labels: int, features: int, eps: float = 1e-12) -> None:
        super().__init__(labels, features)
        self.eps = eps
        self.u: Tensor
        self.register_buffer("u", F.normalize(torch.randn(labels), dim=0))

    def forward(self, labels: Tensor) -> Tensor:
        return F.embedding(labels, spectrally_normalised(self.weight, self.u, self.eps, update=self.training))


def without_spectral_norm(network: nn.Module) -> nn.Module:
    """A copy of `network` with plain layers, whose weights are the normalised ones of evaluation mode."""
    plain = copy.deepcopy(network)
    for name, layer in list(plain.named_modules()):
        if not isinstance(layer, (SpectralConv2d, SpectralLinear, SpectralEmbedding)):
            continue
        with torch.no_grad():
            weight = spectrally_normalised(layer.weight, layer.u, layer.eps, update=False)
            replacement: nn.Module
            if isinstance(layer, SpectralConv2d):
                replacement = nn.Conv2d(
                    layer.in_channels, layer.out_channels, layer.kernel_size, padding=layer.padding,  # type: ignore[arg-type]
                    bias=layer.bias is not None,
                )  # fmt: skip
            elif isinstance(layer, SpectralLinear):
                replacement = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
            else:
                replacement = nn.Embedding(layer.num_embeddings, layer.embedding_dim)
            replacement.to(weight)
            bias = getattr(layer, "bias", None)
            replacement.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
        parent, _, own = name.rpartition(".")
        setattr(plain.get_submodule(parent), own, replacement.train(layer.training))
    return plain


def pixel_norm(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Each position's vector over the channels (dimension 1), scaled to mean square 1 (Karras et al. 2018, 4.2)."""
    mean_square = at_least_float32(x).square().mean(1, keepdim=True)
    return x * torch.rsqrt(mean_square + eps).to(x.dtype)


def with_minibatch_deviation(x: Tensor, group: int, unbiased: bool = True, eps: float = 1e-8) -> Tensor:
    """Adds a channel to features (N, C, H, W), giving (N, C + 1, H, W): how much the samples of a group differ.

    It holds the standard deviation over the group, averaged over channels and positions (Karras et al. 2018, section
    3); near 0 for a single sample. A batch that does not split into groups is one group. Sample i is in group
    i mod (N / group), as in the authors' code (pytorch_GAN_zoo groups neighbours): ranks take the samples of a joint
    batch in alternation, and so have the groups of a single process. `unbiased` divides the squares by the group's size
    minus one, as pytorch_GAN_zoo does; the authors do not.
    """
    size = min(group, len(x))
    size = len(x) if len(x) % size else size
    if size == 1 and unbiased:
        return torch.cat([x, torch.zeros_like(x[:, :1])], dim=1)
    x32 = at_least_float32(x)
    variance = x32.unflatten(0, (size, -1)).var(0, correction=int(unbiased))
    deviation = (variance + eps).sqrt().mean((1, 2, 3))
    channel = deviation.repeat(size)[:, None, None, None].expand(-1, 1, *x.shape[2:])
    return torch.cat([x, channel.to(x.dtype)], dim=1)


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """int64 labels (N,) to float32 (N, num_classes)."""
    return F.one_hot(labels, num_classes).float()


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The dtype that autocast computes in on the device of `x`; the dtype of `x` if autocast is off."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype

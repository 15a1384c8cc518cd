"""LPIPS, a perceptual distance (Zhang et al. 2018, arXiv:1801.03924): the samples' diversity, and for path lengths."""

from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor, nn

from features.precision import exact_arithmetic
from media.pictures import from_levels

_WEIGHTS_FILES = {"alex": ("AlexNet", "alexnet-owt-7be5be79.pth"), "vgg": ("VGG16", "vgg16-397923af.pth")}
"""Networks, and their weights as torchvision names them in torch's cache; LPIPS's own layers come with torchmetrics."""


def weights_place(net: Literal["alex", "vgg"]) -> Path:
    """Where torch keeps a network's weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / _WEIGHTS_FILES[net][1]


def _lpips_network(net: Literal["alex", "vgg"], remedy: str) -> nn.Module:
    """LPIPS of two batches in [-1, 1], in evaluation mode; FileNotFoundError, ending in `remedy`, without weights."""
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    try:
        metric = LearnedPerceptualImagePatchSimilarity(net_type=net, reduction="sum")
    except OSError as error:  # urllib's errors are OSErrors
        name, file = _WEIGHTS_FILES[net]
        raise FileNotFoundError(
            f"lpips: {name}'s weights cannot be downloaded ({error}); put {file} at {weights_place(net)}, or {remedy}"
        ) from error
    return metric.net.eval().requires_grad_(False)


class LPIPSDiversity:
    """The mean LPIPS distance (AlexNet) between samples 0 and 1, 2 and 3, …, gathered batch by batch.

    Pairs are by index, so that batches and ranks make no difference as long as each rank takes whole pairs.

    Raises:
        FileNotFoundError: AlexNet's weights are neither in torch's cache nor to be downloaded.
    """

    name = "LPIPS-AlexNet"

    def __init__(self, device: torch.device) -> None:
        self._network = _lpips_network("alex", "leave lpips out of the metrics").to(device)
        self._device = device
        self._waiting: Tensor | None = None
        self.total = torch.zeros(2, dtype=torch.float64)
        """Sum of the distances, and of their squares."""
        self.pairs = 0

    def update(self, pictures: Tensor) -> None:
        """Takes the next pictures, uint8 (N, 1 or 3, H, W), at least 32 pixels wide; a pair may span two batches."""
        if self._waiting is not None:
            pictures = torch.cat([self._waiting.to(pictures.device), pictures])
        even = len(pictures) // 2 * 2
        self._waiting = pictures[even:] if even < len(pictures) else None
        if even == 0:
            return
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            x = from_levels(pictures[:even].to(self._device).expand(-1, 3, -1, -1))
            distances = self._network(x[0::2], x[1::2], normalize=False).flatten().double().cpu()
        self.total += torch.stack([distances.sum(), distances.square().sum()])
        self.pairs += len(distances)


class LPIPSDistance:
    """LPIPS of pairs of pictures by VGG16, the distance that perceptual path lengths are published with.

    Raises:
        FileNotFoundError: VGG16's weights are neither in torch's cache nor to be downloaded.
    """

    name = ""

    def __init__(self) -> None:
        self._network = _lpips_network("vgg", "take --distance effnet")
        self._device = torch.device("cpu")

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances, float64 (N,) on the CPU, of float32 pictures (N, 1 or 3, H, W) in [-1, 1], of 16 px or more.

        Differentiable by the pictures where the caller records gradients.
        """
        with exact_arithmetic(self._device, gradients=True):
            pair = (x.to(self._device).expand(-1, 3, -1, -1) for x in (a, b))
            return self._network(*pair, normalize=False).flatten().double().cpu()

    def protocol(self) -> dict[str, str | int]:
        """What path lengths must have in common to be compared."""
        return {"distance": "LPIPS-VGG16", "weights": _WEIGHTS_FILES["vgg"][1]}

    def to(self, device: torch.device) -> Self:
        self._network.to(device)
        self._device = device
        return self


def lpips_diversity(total: Tensor, pairs: int) -> tuple[float, float]:
    """Mean distance and its standard error, from sums over pairs. ValueError for fewer than two pairs."""
    if pairs < 2:
        raise ValueError(f"lpips: {pairs} pairs of samples; take at least 4 samples")
    mean = float(total[0]) / pairs
    variance = max(float(total[1]) / pairs - mean**2, 0.0) * pairs / (pairs - 1)
    return mean, (variance / pairs) ** 0.5

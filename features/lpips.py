"""LPIPS, a perceptual distance of pictures (Zhang et al. 2018, arXiv:1801.03924), for metrics and for losses."""

from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor, nn

from features.precision import exact_arithmetic

_WEIGHTS_FILES = {"alex": ("AlexNet", "alexnet-owt-7be5be79.pth"), "vgg": ("VGG16", "vgg16-397923af.pth")}
"""Each network's name, and its weights file in torch's cache; LPIPS's own layers come with torchmetrics."""


def weights_place(net: Literal["alex", "vgg"]) -> Path:
    """The file in torch's cache that holds a network's weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / _WEIGHTS_FILES[net][1]


def lpips_network(net: Literal["alex", "vgg"], remedy: str) -> nn.Module:
    """LPIPS of two batches in [-1, 1], in evaluation mode. Without weights: FileNotFoundError, ending in `remedy`."""
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    try:
        metric = LearnedPerceptualImagePatchSimilarity(net_type=net, reduction="sum")
    except OSError as error:  # urllib's errors are OSErrors
        name, file = _WEIGHTS_FILES[net]
        raise FileNotFoundError(
            f"lpips: {name}'s weights cannot be downloaded ({error}); put {file} at {weights_place(net)}, or {remedy}"
        ) from error
    return metric.net.eval().requires_grad_(False)


class LPIPSDistance:
    """LPIPS of pairs of pictures by VGG16, the distance of published perceptual path lengths.

    Raises FileNotFoundError if VGG16's weights are not in torch's cache and cannot be downloaded.
    """

    name = ""

    def __init__(self) -> None:
        self._network = lpips_network("vgg", "take --distance effnet")
        self._device = torch.device("cpu")

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances, float64 (N,) on the CPU, of float32 pictures (N, 1 or 3, H, W) in [-1, 1], of 16 px or more.

        Differentiable by the pictures if the caller records gradients.
        """
        with exact_arithmetic(self._device, gradients=True):
            pair = (x.to(self._device).expand(-1, 3, -1, -1) for x in (a, b))
            return self._network(*pair, normalize=False).flatten().double().cpu()

    def protocol(self) -> dict[str, str | int]:
        return {"distance": "LPIPS-VGG16", "weights": _WEIGHTS_FILES["vgg"][1]}

    def to(self, device: torch.device) -> Self:
        self._network.to(device)
        self._device = device
        return self

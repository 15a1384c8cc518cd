"""The base of feature extractors: a network that nothing around it can change, and that changes nothing around it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from features.precision import DTYPES, Precision, exact_arithmetic

M = TypeVar("M", bound=nn.Module)


class NetworkFeatures(nn.Module, ABC):
    """Maps pictures to a network's features, always in evaluation mode, without gradients, in the named precision.

    The network is hidden from `parameters`, `state_dict` and `train`, so that a module that holds it adds nothing to a
    checkpoint or an optimizer. `to` moves it between devices but never casts it.

    A subclass's `_features` calls `network`. `head` is the linear layer from features to logits, in float32, if there
    is one. The extractor takes both over: they are no longer trained, or moved by their owner.
    """

    name: str
    """The part of a figure's name."""
    dimension: int
    """Of the features."""
    num_logits: int = 0
    weights_sha256: str
    resolution: int | str
    """Side in pixels of the network's square input, or a word if it varies."""
    resize: str
    precision: str

    def __init__(self, network: nn.Module, head: nn.Linear | None = None) -> None:
        super().__init__()
        for module in (network, head):
            if module is not None:
                module.eval()
                for parameter in module.parameters():  # TorchScript's modules lack `requires_grad_`
                    parameter.requires_grad_(False)
        # A tuple, so that nn.Module does not register them.
        self._hidden = (network, head)
        self._device = torch.device("cpu")

    @abstractmethod
    def _features(self, pictures: Tensor) -> Tensor:
        """Float32 features (N, dimension) of `pictures`, uint8 (N, 1 or 3, H, W) on the extractor's device."""

    @property
    def _network(self) -> nn.Module:
        return self._hidden[0]

    def forward(self, pictures: Tensor) -> Tensor:
        """Features, float32 (N, dimension), on this extractor's device, of `pictures`, uint8 (N, 1 or 3, H, W) on any.

        Grey is repeated to three channels. ValueError for another dtype or shape.
        """
        if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[1] not in (1, 3):
            raise ValueError(
                f"pictures: expected uint8 of shape (N, 1 or 3, H, W), got {pictures.dtype} of {tuple(pictures.shape)}"
            )
        # A trainer's autocast and TF32 must not apply here, because the precision is part of the protocol.
        with exact_arithmetic(self._device):
            return self._features(pictures.to(self._device))

    def logits(self, features: Tensor) -> Tensor:
        """Logits, float32 (N, num_logits), on this extractor's device, from the features of `forward`.

        ValueError for another shape, or from a network without logits.
        """
        head = self._hidden[1]
        if head is None:
            raise ValueError(f"{self.name} has no logits")
        if features.ndim != 2 or features.shape[1] != self.dimension:
            raise ValueError(f"features: expected shape (N, {self.dimension}), got {tuple(features.shape)}")
        with exact_arithmetic(self._device):
            return head(features.to(self._device, torch.float32))

    def protocol(self) -> dict[str, str | int]:
        """What comparable figures have in common."""
        return {
            "extractor": self.name,
            "weights_sha256": self.weights_sha256,
            "resolution": self.resolution,
            "resize": self.resize,
            "precision": self.precision,
        }

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # `to`, `cuda`, `half`, … all call this: follow the device, ignore the dtype.
        self._device = fn(torch.empty(0, device=self._device)).device
        for module in self._hidden:
            if module is not None:
                module.to(device=self._device)
        return self


def check_precision(precision: str) -> None:
    """ValueError, with the known names, for an unknown precision."""
    if precision not in DTYPES:
        raise ValueError(f"precision={precision!r}: expected one of {', '.join(DTYPES)}")


def load(make: Callable[[], M], state: Mapping[str, Tensor]) -> M:
    """The module that `make` builds, with `state` as its weights; RuntimeError if their names or shapes differ.

    Nothing is initialized first, which would take time and draw from torch's generator: a fit must end in the same
    weights with and without measurements.
    """
    with torch.device("meta"):
        module = make()
    module.load_state_dict(state, strict=True, assign=True)
    return module


def fold(module: nn.Module, conv: str, norm: str) -> None:
    """Folds a batch norm's fixed scale and shift into the convolution before it: the same function, faster."""
    if isinstance(getattr(module, conv), nn.Conv2d):  # a layer that a block lacks is an identity
        setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
        setattr(module, norm, nn.Identity())


def as_input(x: Tensor, precision: Precision) -> Tensor:
    """Preprocessed pictures, float32 (N, 1 or 3, H, W), as the networks take them: three channels, channels last."""
    return x.to(DTYPES[precision]).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)

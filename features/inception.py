"""The Inception network of 2015, whose features define the FID, the KID and the Inception Score.

TensorFlow's graph `inception-2015-12-05`: Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer
Vision", section 6 and table 1, as trained by its authors. It is not torchvision's Inception v3: it has other weights,
1,008 outputs, average pools that leave out the border, and a max pool in the last block.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from features.network import NetworkFeatures, as_input, check_precision, fold, load
from features.precision import DTYPES, Precision
from features.resize import Filter, check_filter, resized
from features.weights import download, read_weights, weights_folder

WEIGHTS_FILE = "weights-inception-2015-12-05-6726825d.pth"
WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
WEIGHTS_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS_FILE}"
# pytorch-fid's name for the same bytes.
_OTHER_NAME = "pt_inception-2015-12-05-6726825d.pth"

RESOLUTION = 299

Kernel = int | tuple[int, int]


class ConvNorm(nn.Module):
    """A convolution without bias, a batch norm, ReLU; `padded` keeps the side, or halves it with stride 2."""

    # The names, here and below, are the keys of the published weights.
    def __init__(
        self, channels_in: int, channels_out: int, kernel: Kernel = 1, stride: int = 1, padded: bool = True
    ) -> None:
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (height // 2, width // 2) if padded else (0, 0)
        self.conv = nn.Conv2d(channels_in, channels_out, (height, width), stride, padding, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(channels_out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.bn(self.conv(x)))


def _average_pool(x: Tensor) -> Tensor:
    """3×3, stride 1; at the border the mean of the pixels that exist, as with TensorFlow's "SAME" padding."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class BlockA(nn.Module):
    """35×35: figure 5 of the paper, with its 5×5 path."""

    def __init__(self, channels: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = ConvNorm(channels, 64)
        self.branch5x5_1 = ConvNorm(channels, 48)
        self.branch5x5_2 = ConvNorm(48, 64, 5)
        self.branch3x3dbl_1 = ConvNorm(channels, 64)
        self.branch3x3dbl_2 = ConvNorm(64, 96, 3)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3)
        self.branch_pool = ConvNorm(channels, pooled)

    def forward(self, x: Tensor) -> Tensor:
        fives = self.branch5x5_2(self.branch5x5_1(x))
        threes = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), fives, threes, self.branch_pool(_average_pool(x))], 1)


class BlockB(nn.Module):
    """35×35 to 17×17: figure 10."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3 = ConvNorm(channels, 384, 3, stride=2, padded=False)
        self.branch3x3dbl_1 = ConvNorm(channels, 64)
        self.branch3x3dbl_2 = ConvNorm(64, 96, 3)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3, stride=2, padded=False)

    def forward(self, x: Tensor) -> Tensor:
        threes = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), threes, F.max_pool2d(x, 3, stride=2)], 1)


class BlockC(nn.Module):
    """17×17: figure 6 with n = 7, on `narrow` channels inside."""

    def __init__(self, channels: int, narrow: int) -> None:
        super().__init__()
        self.branch1x1 = ConvNorm(channels, 192)
        self.branch7x7_1 = ConvNorm(channels, narrow)
        self.branch7x7_2 = ConvNorm(narrow, narrow, (1, 7))
        self.branch7x7_3 = ConvNorm(narrow, 192, (7, 1))
        self.branch7x7dbl_1 = ConvNorm(channels, narrow)
        self.branch7x7dbl_2 = ConvNorm(narrow, narrow, (7, 1))
        self.branch7x7dbl_3 = ConvNorm(narrow, narrow, (1, 7))
        self.branch7x7dbl_4 = ConvNorm(narrow, narrow, (7, 1))
        self.branch7x7dbl_5 = ConvNorm(narrow, 192, (1, 7))
        self.branch_pool = ConvNorm(channels, 192)

    def forward(self, x: Tensor) -> Tensor:
        sevens = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), sevens, twice, self.branch_pool(_average_pool(x))], 1)


class BlockD(nn.Module):
    """17×17 to 8×8: figure 10 with a 7×7 path."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3_1 = ConvNorm(channels, 192)
        self.branch3x3_2 = ConvNorm(192, 320, 3, stride=2, padded=False)
        self.branch7x7x3_1 = ConvNorm(channels, 192)
        self.branch7x7x3_2 = ConvNorm(192, 192, (1, 7))
        self.branch7x7x3_3 = ConvNorm(192, 192, (7, 1))
        self.branch7x7x3_4 = ConvNorm(192, 192, 3, stride=2, padded=False)

    def forward(self, x: Tensor) -> Tensor:
        threes = self.branch3x3_2(self.branch3x3_1(x))
        sevens = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([threes, sevens, F.max_pool2d(x, 3, stride=2)], 1)


class BlockE(nn.Module):
    """8×8: figure 7. The graph's last block has a max pool, the paper and the block before it an average."""

    def __init__(self, channels: int, pool: Literal["average", "max"]) -> None:
        super().__init__()
        self.pool = pool
        self.branch1x1 = ConvNorm(channels, 320)
        self.branch3x3_1 = ConvNorm(channels, 384)
        self.branch3x3_2a = ConvNorm(384, 384, (1, 3))
        self.branch3x3_2b = ConvNorm(384, 384, (3, 1))
        self.branch3x3dbl_1 = ConvNorm(channels, 448)
        self.branch3x3dbl_2 = ConvNorm(448, 384, 3)
        self.branch3x3dbl_3a = ConvNorm(384, 384, (1, 3))
        self.branch3x3dbl_3b = ConvNorm(384, 384, (3, 1))
        self.branch_pool = ConvNorm(channels, 192)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = _average_pool(x) if self.pool == "average" else F.max_pool2d(x, 3, stride=1, padding=1)
        branches = [self.branch1x1(x), self.branch3x3_2a(once), self.branch3x3_2b(once)]
        branches += [self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice), self.branch_pool(pooled)]
        return torch.cat(branches, 1)


class InceptionV3(nn.Module):
    """The network alone, with the layers and names of the published weights."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, stride=2, padded=False)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3, padded=False)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3, padded=False)
        self.Mixed_5b = BlockA(192, pooled=32)
        self.Mixed_5c = BlockA(256, pooled=64)
        self.Mixed_5d = BlockA(288, pooled=64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b = BlockC(768, narrow=128)
        self.Mixed_6c = BlockC(768, narrow=160)
        self.Mixed_6d = BlockC(768, narrow=160)
        self.Mixed_6e = BlockC(768, narrow=192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b = BlockE(1280, pool="average")
        self.Mixed_7c = BlockE(2048, pool="max")
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x: Tensor) -> Tensor:
        """Preprocessed pictures, (N, 3, 299, 299), to float32 features (N, 2048): the last maps, averaged."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        # The average in float32, whatever the rest uses.
        return x.float().mean((2, 3))

    def fold_batch_norms(self) -> None:
        """Folds every batch norm's fixed scale and shift into the convolution before it: the same function, faster."""
        for module in self.modules():
            if isinstance(module, ConvNorm):
                fold(module, "conv", "bn")


def published_weights(path: str | Path | None = None) -> dict[str, Tensor]:
    """The published state dict: from `path`, or if that is None from the first place that has it.

    The places are the folder of `features.weights.weights_folder`; torch.hub's folder, where torch-fidelity and
    pytorch-fid keep their downloads; and the network. ValueError if the file is not the published one, byte for byte;
    FileNotFoundError, with remedies, if there is none at `path`, or none anywhere and it cannot be downloaded.
    """

    if path is not None:
        return read_weights(Path(path).expanduser(), WEIGHTS_SHA256, f"take the file from {WEIGHTS_URL}")
    kept = weights_folder() / WEIGHTS_FILE
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    for place in (kept, hub / WEIGHTS_FILE, hub / _OTHER_NAME):
        if place.is_file():
            return read_weights(place, WEIGHTS_SHA256, "delete it to have it downloaded again")
    remedy = f"put it at {kept} by hand, or take the extractor effnet, whose weights come with a package"
    download(WEIGHTS_URL, kept, WEIGHTS_SHA256, remedy)
    return read_weights(kept, WEIGHTS_SHA256, "delete it to have it downloaded again")


class InceptionFeatures(NetworkFeatures):
    """Maps pictures to the 2,048 features that define the FID; `published` creates one with the published weights.

    `state` holds the network's weights, by the names of the published file, and `weights_sha256` identifies them:
    figures with other weights are not the FID. `resize` is the filter that brings pictures to 299 pixels: "bicubic" is
    clean-fid's, "tf1-bilinear" the original FID's and torch-fidelity's.

    Logits are without the last layer's bias, of 1,008 classes, because the Inception Score's softmax omits it.

    ValueError for another filter or precision; RuntimeError if `state` is another network's.
    """

    name = "Inception"
    dimension = 2048
    num_logits = 1008
    resolution = RESOLUTION

    def __init__(
        self,
        state: Mapping[str, Tensor],
        weights_sha256: str,
        resize: Filter = "bicubic",
        precision: Precision = "float32",
    ) -> None:
        check_filter(resize)
        check_precision(precision)
        network = load(InceptionV3, state).eval()
        head = nn.Linear(2048, 1008, bias=False, device="meta")
        head.load_state_dict({"weight": network.fc.weight}, assign=True)
        del network.fc
        network.fold_batch_norms()
        network.to(dtype=DTYPES[precision])
        network.to(memory_format=torch.channels_last)
        super().__init__(network, head)
        self.weights_sha256 = weights_sha256
        self.resize: Filter = resize
        self.precision: Precision = precision

    @classmethod
    def published(
        cls, resize: Filter = "bicubic", precision: Precision = "float32", weights: str | Path | None = None
    ) -> "InceptionFeatures":
        """An extractor with the published weights, from the file `weights` or as `published_weights` finds them."""

        check_filter(resize)  # before a download
        check_precision(precision)
        return cls(published_weights(weights), WEIGHTS_SHA256, resize, precision)

    def _features(self, pictures: Tensor) -> Tensor:
        x = (resized(pictures, RESOLUTION, self.resize) - 128) / 128
        return self._network(as_input(x, self.precision))

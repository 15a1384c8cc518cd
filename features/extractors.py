"""Feature extractors: their interface, and how a config names one."""

from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor

from features.efficientnet import EfficientNetFeatures
from features.inception import RESOLUTION as INCEPTION_RESOLUTION
from features.inception import InceptionFeatures
from features.precision import Precision
from features.resize import Filter
from features.torchscript import TorchScriptFeatures

NAMES = ("effnet", "inception")
_SUFFIXES = (".pt", ".pth", ".ts", ".jit", ".torchscript")


class Extractor(Protocol):
    """Maps pictures to the features that metrics use; `features.network.NetworkFeatures` implements most of it."""

    name: str
    """The part of figures' names: "Inception", "EffNet", or a TorchScript file's stem."""
    dimension: int
    """Of the features."""
    num_logits: int
    """0 if it has none."""

    def __call__(self, pictures: Tensor) -> Tensor:
        """Features, float32 (N, dimension), of pictures, uint8 (N, 1 or 3, H, W); ValueError for others."""
        ...

    def logits(self, features: Tensor) -> Tensor:
        """Logits, float32 (N, num_logits), of features; ValueError if it has none."""
        ...

    def protocol(self) -> dict[str, str | int]:
        """What comparable figures have in common: extractor, weights_sha256, resolution, resize, precision."""
        ...

    def to(self, device: torch.device) -> Self: ...


def make_extractor(
    spec: str,
    *,
    resolution: int | None = None,
    resize: Filter = "bicubic",
    precision: Precision = "float32",
    weights: str | None = None,
) -> Extractor:
    """The extractor named `spec`, on the CPU.

    - "effnet": EfficientNet-Lite0, by default at 64 pixels.
    - "inception": the FID's, always at 299 pixels; its weights come from the file `weights`, or from
      `features.inception.published_weights`, which finds or downloads them.
    - the path of a TorchScript file: see `features.torchscript`.

    ValueError or FileNotFoundError for an unknown name, a setting that the extractor does not have, or weights that are
    missing or not the published ones.
    """
    if weights is not None and spec != "inception":
        raise ValueError(f"weights={weights!r}: only inception takes its weights from a file, not {spec}")
    if spec == "effnet":
        return EfficientNetFeatures(64 if resolution is None else resolution, precision, resize)
    if spec == "inception":
        if resolution not in (None, INCEPTION_RESOLUTION):
            raise ValueError(f"resolution={resolution}: inception's is {INCEPTION_RESOLUTION}; leave it out")
        return InceptionFeatures.published(resize, precision, weights)
    path = Path(spec).expanduser()
    if path.suffix not in _SUFFIXES and not path.is_file():
        raise ValueError(
            f"unknown extractor {spec!r}: expected {', '.join(NAMES)}, or the path of a TorchScript file (*.pt, *.ts)"
        )
    if path.stem.lower() in NAMES:
        raise ValueError(f"{path}: figures would be taken for those of the extractor {path.stem.lower()}; rename it")
    if precision != "float32":
        raise ValueError(f"precision={precision!r}: {path} runs in the precision that it was saved in; leave it out")
    return TorchScriptFeatures(path, resolution, resize)

"""Feature extractors: their interface, and how a config names one."""

from pathlib import Path
from typing import TypeAlias

from features.efficientnet import EfficientNetFeatures
from features.inception import RESOLUTION as INCEPTION_RESOLUTION
from features.inception import InceptionFeatures
from features.network import NetworkFeatures
from features.precision import Precision
from features.resize import Filter
from features.torchscript import TorchScriptFeatures

NAMES = ("effnet", "inception")
_SUFFIXES = (".pt", ".pth", ".ts", ".jit", ".torchscript")


Extractor: TypeAlias = NetworkFeatures


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

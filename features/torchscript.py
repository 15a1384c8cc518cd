"""Any network as a feature extractor, from a TorchScript file, for instance to compare with figures of others."""

import hashlib
import io
import warnings
from pathlib import Path

import torch
from torch import Tensor

from features.network import NetworkFeatures
from features.precision import exact_arithmetic
from features.resize import Filter, check_filter, resized

_PROBE_SIDE = 299
_RETURN_FEATURES = "return_features"


class TorchScriptFeatures(NetworkFeatures):
    """Maps pictures to the output of the network in the TorchScript file at `path`. Its name is the file's stem.

    The network gets pictures, uint8 (N, 3, H, W) on its device, preprocesses them itself, and returns floats (N, D) or
    (N, D, 1, 1). Grey is repeated to three channels. With a `resolution`, pictures are first resized to it, by the
    filter `resize`, and rounded back to bytes. Otherwise they keep their own size, and the network must accept 299
    pixels, with which it is tried once. If its `forward` has an argument `return_features`, it is set to True, so that
    NVIDIA's `inception-2015-12-05.pt` and `vgg16.pt`, which come with StyleGAN2-ADA, work as they are. There are no
    logits.

    Such a file is not a pickle, and loading it runs no Python. But it holds a program, which torch's interpreter runs,
    and which can use all of the machine's time and memory: do not load files that you do not trust.

    FileNotFoundError if there is no file. ValueError for a file that is not TorchScript, a network that fails or
    returns something else, a resolution below 1, an unknown filter, or a filter without a resolution.
    """

    precision = "as saved"

    def __init__(self, path: str | Path, resolution: int | None = None, resize: Filter = "bicubic") -> None:
        check_filter(resize)
        if resolution is None and resize != "bicubic":
            raise ValueError(f"resize={resize!r} without a resolution: pictures then keep their own size")
        if resolution is not None and resolution < 1:
            raise ValueError(f"resolution={resolution}: expected at least 1")
        path = Path(path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        # Read once, so that the loaded bytes are the hashed ones.
        content = path.read_bytes()
        network = _load(path, content)
        super().__init__(network)
        self.name = path.stem
        self.weights_sha256 = hashlib.sha256(content).hexdigest()
        self.resolution: int | str = "own" if resolution is None else resolution
        self.resize = "none" if resolution is None else resize
        self._filter: Filter = resize
        self._path = path
        arguments = [argument.name for argument in network.forward.schema.arguments]  # type: ignore[attr-defined]
        self._settings = {_RETURN_FEATURES: True} if _RETURN_FEATURES in arguments else {}
        side = resolution or _PROBE_SIDE
        # Two pictures, so that a constant batch size of one shows.
        with exact_arithmetic(self._device):
            self.dimension = self._run(torch.zeros(2, 3, side, side, dtype=torch.uint8)).shape[1]

    def _features(self, pictures: Tensor) -> Tensor:
        if isinstance(self.resolution, int):
            pictures = resized(pictures, self.resolution, self._filter).round().to(torch.uint8)
        features = self._run(pictures.expand(-1, 3, -1, -1).contiguous())
        if features.shape[1] != self.dimension:
            raise ValueError(f"{self._path}: {features.shape[1]} features now, {self.dimension} before")
        return features

    def _run(self, pictures: Tensor) -> Tensor:
        """Float32 (N, D) of uint8 (N, 3, H, W), or ValueError."""
        shape = tuple(pictures.shape)
        try:
            features = self._network(pictures, **self._settings)
        except (RuntimeError, torch.jit.Error) as error:
            raise ValueError(f"{self._path}: failed on pictures, uint8 {shape} ({_last_line(error)})") from error
        if isinstance(features, Tensor) and features.is_floating_point():
            if features.ndim == 4 and features.shape[2:] == (1, 1):
                features = features.flatten(1)
            if features.ndim == 2 and len(features) == len(pictures):
                return features.float()
        found = type(features).__name__
        if isinstance(features, Tensor):
            found = f"{features.dtype} of {tuple(features.shape)}"
        raise ValueError(f"{self._path}: expected floats (N, D) or (N, D, 1, 1) of pictures {shape}, got {found}")


def _load(path: Path, content: bytes) -> torch.jit.ScriptModule:
    try:
        with warnings.catch_warnings():
            # torch prefers torch.export's files, but published figures rest on these.
            warnings.filterwarnings("ignore", message=r"`torch\.jit\.load` is deprecated", category=FutureWarning)
            return torch.jit.load(io.BytesIO(content), map_location="cpu")
    except RuntimeError as error:
        reason, _, _ = _last_line(error).partition(". ")
        raise ValueError(f"{path}: not a TorchScript file ({reason})") from error


def _last_line(error: Exception) -> str:
    """The cause of the error; the lines before it are the interpreter's stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__

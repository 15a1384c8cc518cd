"""Times features: our Inception, torch-fidelity's, torchmetrics' and pytorch-fid's, on the same pictures.

    python tests/benchmarks/quality_features.py [--count 32] [--batch-size 16] [--rounds 5] [--side 32] [--device cpu]

They alternate in one process, so that other work on the machine affects all of them equally. A turn takes all the
pictures from bytes on the device to features, including resizing. All Inceptions have the same random weights, which do
not change the speed. Matrix products are in full float32 for all, as by default on a CPU, but not on a GPU. The program
needs torch-fidelity, torchmetrics and pytorch-fid.

- inception: ours, with each filter. EfficientNet-Lite0, at its 64 pixels, is timed in both precisions.
- torch-fidelity: TensorFlow 1's bilinear filter, like our "tf1-bilinear".
- torchmetrics: the same network as its FID calls it, by default with an antialiased bilinear filter.
- pytorch-fid: torch's bilinear filter.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from callbacks.hardware import hardware
from features.efficientnet import EfficientNetFeatures
from features.inception import InceptionFeatures, InceptionV3
from features.precision import exact_arithmetic

Extract = Callable[[Tensor], Tensor]

OURS = "inception, tf1-bilinear"
THEIRS = ("torch-fidelity", "torchmetrics", "pytorch-fid")


def extractors(device: torch.device) -> dict[str, Extract]:
    """Functions from bytes to features, by name. Every Inception has the same random weights."""
    from pytorch_fid.inception import InceptionV3 as PytorchFid
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as TorchFidelity
    from torchmetrics.image.fid import NoTrainInceptionV3 as TorchMetrics

    torch.manual_seed(0)
    state = InceptionV3().state_dict()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "random.pth")
        torch.save(state, path)
        torch_fidelity = TorchFidelity("inception-v3-compat", ["2048"], path).to(device)
        torchmetrics = TorchMetrics("inception-v3-compat", ["2048"], path).to(device)
    with patch("pytorch_fid.inception.load_state_dict_from_url", lambda url, progress: state):
        pytorch_fid = PytorchFid().eval().to(device)
    return {
        OURS: InceptionFeatures(state, "random", "tf1-bilinear").to(device),
        "inception, bicubic": InceptionFeatures(state, "random", "bicubic").to(device),
        "torch-fidelity": lambda pictures: torch_fidelity(pictures)[0],
        "torchmetrics": torchmetrics,
        "pytorch-fid": lambda pictures: pytorch_fid(pictures.float() / 255)[0].flatten(1),
        "effnet, float32": EfficientNetFeatures().to(device),
        "effnet, bfloat16": EfficientNetFeatures(precision="bfloat16").to(device),
    }


def measure(device: torch.device, count: int, batch_size: int, rounds: int, side: int) -> dict[str, list[float]]:
    """Features per second of each extractor in each round, after a warm-up."""
    found = extractors(device)
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8).to(device)
    batches = pictures.split(batch_size)
    speeds: dict[str, list[float]] = {name: [] for name in found}
    with exact_arithmetic(device):
        require_agreement(found, batches[0][:2])
        for extract in found.values():
            extract(batches[0])
        for turn in range(rounds):
            for name, extract in found.items():
                start = now(device)
                for batch in batches:
                    extract(batch)
                speeds[name].append(count / (now(device) - start))
            print(f"round {turn + 1}: {', '.join(f'{name} {values[-1]:.1f}' for name, values in speeds.items())}")
    return speeds


def require_agreement(found: dict[str, Extract], pictures: Tensor) -> None:
    """Asserts that torch-fidelity's features and ours are equal within rounding, so that the same function is timed."""
    expected = found["torch-fidelity"](pictures)
    error = float((found[OURS](pictures) - expected).norm() / expected.norm())
    print(f"features of {OURS} and torch-fidelity differ by {error:.1e}, relatively")
    assert error < 1e-4


def now(device: torch.device) -> float:
    """The time in seconds, after the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def row(name: str, values: list[float], digits: int) -> str:
    """A line of the table: minimum, median, maximum."""
    numbers = (min(values), statistics.median(values), max(values))
    return f"{name:<44}" + "".join(f"{number:>10.{digits}f}" for number in numbers)


def report(speeds: dict[str, list[float]], device: torch.device) -> str:
    """The speeds, and the ratios by round."""
    shown = hardware(device).to_json()
    lines = [f"torch {torch.__version__}, " + ", ".join(f"{key} {value}" for key, value in shown.items()), ""]
    lines.append(f"{'features/s':<44}{'min':>10}{'median':>10}{'max':>10}")
    lines += [row(name, values, 1) for name, values in speeds.items()]
    lines.append("ratios, round by round")
    pairs = [(ours, theirs) for ours in (OURS, "inception, bicubic") for theirs in THEIRS]
    pairs.append(("effnet, bfloat16", "effnet, float32"))
    for ours, theirs in pairs:
        ratios = [a / b for a, b in zip(speeds[ours], speeds[theirs], strict=True)]
        lines.append(row(f"{ours} / {theirs}", ratios, 2))
    return "\n".join(lines)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=32, help="pictures per turn")
    parser.add_argument("--batch-size", type=int, default=16, help="pictures per call")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each extractor")
    parser.add_argument("--side", type=int, default=32, help="of the pictures, in pixels")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, …")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    speeds = measure(device, arguments.count, arguments.batch_size, arguments.rounds, arguments.side)
    print("\n" + report(speeds, device))


if __name__ == "__main__":
    main()

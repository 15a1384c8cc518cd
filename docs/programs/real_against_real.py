"""Plots the figures of real pictures, and of damaged real pictures, for docs/quality.md.

pip install -e '.[docs]'
python docs/programs/real_against_real.py configs/data/cifar10.yaml docs/images/real_against_real.png \
    --resolution 224 --reference 4000 --count 1000

The reference is from one half of the training split. `--count` pictures of the other half are measured as they are,
blurred, with noise, and with classes left out.
"""

import argparse
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from commands.options.sources import data_from
from features.extractors import make_extractor
from media.pictures import to_uint8
from metrics.evaluation import figures
from metrics.picture_set import PictureSet
from metrics.real_statistics import RealStatistics
from metrics.sample_statistics import SampleStatistics

BLURS = (0.5, 1.0, 1.5, 2.0)
NOISES = (5.0, 10.0, 20.0, 40.0)


def blurred(pictures: Tensor, sigma: float) -> Tensor:
    """Uint8 (N, C, H, W), blurred by a Gaussian of `sigma` pixels."""
    return transforms.gaussian_blur(pictures, [13, 13], [sigma, sigma]) if sigma else pictures


def noisy(pictures: Tensor, sigma: float) -> Tensor:
    """Uint8 (N, C, H, W), with Gaussian noise of `sigma` grey levels."""
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0)) * sigma
    return (pictures.float() + noise).round().clamp(0, 255).to(torch.uint8)


def measure(
    config: Path, resolution: int, reference_count: int | None, count: int, folder: Path
) -> dict[str, list[tuple[float, dict[str, float]]]]:
    """Figures by kind and level of damage; level 0 is no damage."""
    data = data_from(config)
    extractor = make_extractor("effnet", resolution=resolution, precision="bfloat16")
    order = np.random.RandomState(0).permutation(data.train_size)
    half = data.train_size // 2

    def chosen(name: str, rows: np.ndarray) -> PictureSet:
        def read(indices: object) -> tuple[Tensor, Tensor]:
            x, labels = data.examples("train", [int(rows[i]) for i in indices])  # type: ignore[attr-defined]
            return to_uint8(x), labels

        return PictureSet(name, f"{data.fingerprint} {name}", len(rows), read)  # type: ignore[arg-type]

    reference = RealStatistics(chosen("one half", order[:half][:reference_count]), extractor, folder, quiet=False)
    others = chosen("the other half", order[half:])
    x, y = others.read(range(others.count))
    assert y is not None

    def against(pictures: Tensor, metrics: list[str]) -> dict[str, float]:
        seen = SampleStatistics(metrics, extractor, len(pictures), range(len(pictures)), folder)  # type: ignore[arg-type]
        for part in pictures.split(128):
            seen.update(part, None)
        found = figures(metrics, reference, seen)  # type: ignore[arg-type]
        print({name: round(figure.value, 4) for name, figure in found.items()}, flush=True)
        return {name: figure.value for name, figure in found.items()}

    if reference_count is None:
        print(f"two halves of {half}:", against(x, ["frechet"]))
    both = ["frechet", "precision_recall"]
    untouched = against(x[:count], both)
    results = {"blur": [(0.0, untouched)], "noise": [(0.0, untouched)], "dropped classes": [(0.0, untouched)]}
    for sigma in BLURS:
        results["blur"].append((sigma, against(blurred(x[:count], sigma), both)))
    for sigma in NOISES:
        results["noise"].append((sigma, against(noisy(x[:count], sigma), both)))
    for dropped in range(2, data.num_classes, 2):
        left = x[y >= dropped]
        results["dropped classes"].append((float(dropped), against(left[:count], both)))
    return results


def draw(results: dict[str, list[tuple[float, dict[str, float]]]], title: str, out: Path) -> None:
    """Plots one row per figure and one column per kind of damage."""
    names = {"fd_effnet": "FD-EffNet", "precision": "precision", "recall": "recall"}
    units = {"blur": "sigma, pixels", "noise": "sigma, grey levels", "dropped classes": "of ten"}
    plot, axes = plt.subplots(3, 3, figsize=(9, 7), layout="constrained", sharex="col", sharey="row")
    for column, (kind, points) in enumerate(results.items()):
        for row, (name, label) in enumerate(names.items()):
            axes[row, column].plot([level for level, _ in points], [found[name] for _, found in points], marker="o")
            axes[row, column].grid(visible=True, alpha=0.3)
            axes[row, 0].set_ylabel(label)
        axes[0, column].set_title(kind)
        axes[2, column].set_xlabel(units[kind])
    plot.suptitle(title)
    out.parent.mkdir(parents=True, exist_ok=True)
    plot.savefig(out, dpi=80)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--resolution", type=int, default=64, help="side of EfficientNet's input, in pixels")
    parser.add_argument("--reference", type=int, help="real pictures of the first half (all)")
    parser.add_argument("--count", type=int, default=5000, help="pictures of the other half")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        found = measure(arguments.config, arguments.resolution, arguments.reference, arguments.count, Path(cache))
    print(json.dumps(found))
    title = (
        f"{arguments.config.stem}: {arguments.count} pictures of one half against the other, {arguments.resolution} px"
    )
    draw(found, title, arguments.out)

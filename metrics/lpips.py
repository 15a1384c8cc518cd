"""The diversity of samples by LPIPS, a perceptual distance (Zhang et al. 2018, arXiv:1801.03924)."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from features.lpips import lpips_network
from media.pictures import from_levels
from metrics.metric import Context, Metric
from records.figures import Direction, Figure

if TYPE_CHECKING:
    from features.extractors import Extractor
    from metrics.real_statistics import RealStatistics
    from metrics.sample_statistics import SampleStatistics


class Diversity(Metric):
    """The mean LPIPS distance between samples 0 and 1, 2 and 3, …"""

    name = "lpips"
    needs = frozenset({"pairs"})
    only_if_named = True

    def directions(self, extractor: "Extractor") -> dict[str, Direction]:
        return {"lpips_diversity": "higher"}

    def unavailable(self, context: Context) -> str | None:
        enough = context.fake.count >= 4
        return None if enough else f"{context.fake.count} samples make fewer than two pairs; take at least 4"

    def figures(self, real: "RealStatistics", fake: "SampleStatistics") -> dict[str, Figure]:
        ((name, better),) = self.directions(fake.extractor).items()
        mean, error = lpips_diversity(torch.cat(fake.pairs))
        settings = {"network": PairDistances.name, "pairs": sum(map(len, fake.pairs)), "spread": "standard error"}
        return {name: Figure(mean, better, error, settings)}


class PairDistances:
    """The LPIPS distances (AlexNet) of samples 0 and 1, 2 and 3, …, batch by batch.

    Pairs are by index, so batches and ranks make no difference as long as each rank takes whole pairs.
    FileNotFoundError if AlexNet's weights are not in torch's cache and cannot be downloaded.
    """

    name = "LPIPS-AlexNet"

    def __init__(self, device: torch.device) -> None:
        self._network = lpips_network("alex", "leave lpips out of the metrics").to(device)
        self._device = device
        self._waiting: Tensor | None = None

    def __call__(self, pictures: Tensor) -> Tensor:
        """The distances, float64 (pairs,) on the CPU, that the next pictures complete; a pair may span two batches.

        Pictures are uint8 (N, 1 or 3, H, W), at least 32 pixels wide.
        """
        if self._waiting is not None:
            pictures = torch.cat([self._waiting.to(pictures.device), pictures])
        even = len(pictures) // 2 * 2
        self._waiting = pictures[even:] if even < len(pictures) else None
        if even == 0:
            return torch.empty(0, dtype=torch.float64)
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            x = from_levels(pictures[:even].to(self._device).expand(-1, 3, -1, -1))
            return self._network(x[0::2], x[1::2], normalize=False).flatten().double().cpu()


def lpips_diversity(distances: Tensor) -> tuple[float, float]:
    """Mean of the pairs' distances, float64 (N,), and its standard error. ValueError for fewer than two pairs."""
    if len(distances) < 2:
        raise ValueError(f"lpips: {len(distances)} pairs of samples; take at least 4 samples")
    return float(distances.mean()), float(distances.std()) / len(distances) ** 0.5

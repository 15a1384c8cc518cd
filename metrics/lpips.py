"""The diversity of samples by LPIPS, a perceptual distance (Zhang et al. 2018, arXiv:1801.03924)."""

import torch
from torch import Tensor

from features.lpips import lpips_network
from media.pictures import from_levels


class LPIPSDiversity:
    """The mean LPIPS distance (AlexNet) between samples 0 and 1, 2 and 3, …, gathered batch by batch.

    Pairs are by index, so that batches and ranks make no difference as long as each rank takes whole pairs.

    Raises:
        FileNotFoundError: AlexNet's weights are neither in torch's cache nor to be downloaded.
    """

    name = "LPIPS-AlexNet"

    def __init__(self, device: torch.device) -> None:
        self._network = lpips_network("alex", "leave lpips out of the metrics").to(device)
        self._device = device
        self._waiting: Tensor | None = None
        self.total = torch.zeros(2, dtype=torch.float64)
        """Sum of the distances, and of their squares."""
        self.pairs = 0

    def update(self, pictures: Tensor) -> None:
        """Takes the next pictures, uint8 (N, 1 or 3, H, W), at least 32 pixels wide; a pair may span two batches."""
        if self._waiting is not None:
            pictures = torch.cat([self._waiting.to(pictures.device), pictures])
        even = len(pictures) // 2 * 2
        self._waiting = pictures[even:] if even < len(pictures) else None
        if even == 0:
            return
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            x = from_levels(pictures[:even].to(self._device).expand(-1, 3, -1, -1))
            distances = self._network(x[0::2], x[1::2], normalize=False).flatten().double().cpu()
        self.total += torch.stack([distances.sum(), distances.square().sum()])
        self.pairs += len(distances)


def lpips_diversity(total: Tensor, pairs: int) -> tuple[float, float]:
    """Mean distance and its standard error, from sums over pairs. ValueError for fewer than two pairs."""
    if pairs < 2:
        raise ValueError(f"lpips: {pairs} pairs of samples; take at least 4 samples")
    mean = float(total[0]) / pairs
    variance = max(float(total[1]) / pairs - mean**2, 0.0) * pairs / (pairs - 1)
    return mean, (variance / pairs) ** 0.5

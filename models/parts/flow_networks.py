"""The networks inside the couplings of flows: RealNVP's, Glow's, and one for points.

Dinh, Sohl-Dickstein & Bengio 2017 (RealNVP, arXiv:1605.08803); Kingma & Dhariwal 2018 (Glow, arXiv:1807.03039). They
need not be invertible. Pictures are (N, C, H, W), vectors (N, C).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from models.parts.flow_layers import ActNorm


class ActNormConv2d(nn.Module):
    """A convolution followed by ActNorm, computed as one, like every hidden one of Glow's code."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.norm = ActNorm(outputs)
        nn.init.normal_(self.conv.weight, 0.0, 0.05)

    def forward(self, x: Tensor) -> Tensor:
        if self.norm.pending:
            self.norm.sees(self.conv(x))
        scale = self.norm.log_scale.exp()
        weight = self.conv.weight * scale[:, None, None, None]
        return F.conv2d(x, weight, self.norm.bias * scale, padding=self.conv.padding)


class ZeroConv2d(nn.Conv2d):
    """A 3x3 convolution that starts at zero, with outputs scaled by a learned exp(3 log_scale) (Glow's code)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        assert self.bias is not None
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
        self.log_scale = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.exp(3 * self.log_scale)[:, None, None]


def glow_network(inputs: int, outputs: int, width: int) -> nn.Module:
    """3x3, 1x1 and 3x3 convolutions (Glow, section 5)."""
    return nn.Sequential(
        ActNormConv2d(inputs, width, 3),
        nn.ReLU(),
        ActNormConv2d(width, width, 1),
        nn.ReLU(),
        ZeroConv2d(width, outputs),
    )


class ResidualBlock(nn.Module):
    """x + two 3x3 convolutions of it, each after a ReLU (He et al. 2016b), with RealNVP's weight normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(),
            weight_norm(nn.Conv2d(width, width, 3, padding=1)),
            nn.ReLU(),
            weight_norm(nn.Conv2d(width, width, 3, padding=1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class ResidualNetwork(nn.Module):
    """RealNVP's network (section 3.6 and 4.1, and its code), without batch norms: of x and -x, with skip connections.

    Its outputs are zero at first. Each block's output, and the first block's input, also adds to the end by its own
    path.
    """

    def __init__(self, inputs: int, outputs: int, width: int, blocks: int) -> None:
        super().__init__()
        self.first = weight_norm(nn.Conv2d(2 * inputs, width, 3, padding=1))
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(blocks))
        self.paths = nn.ModuleList(weight_norm(nn.Conv2d(width, width, 1)) for _ in range(blocks + 1))
        self.last = _zeroed(nn.Conv2d(width, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(F.relu(torch.cat([x, -x], dim=1)))
        total = self.paths[0](x)
        for block, path in zip(self.blocks, self.paths[1:], strict=True):
            x = block(x)
            total = total + path(x)
        shifts_and_scales: Tensor = self.last(F.relu(total))
        return shifts_and_scales


FINENESS = 6.0
"""How much finer than the inputs' spread a vector network's output varies at the beginning."""


def vector_network(inputs: int, outputs: int, width: int) -> nn.Module:
    """Two smooth hidden layers, for densities of points; neither paper has one.

    The first layer starts with large weights, and with biases that spread its units over the inputs. With torch's
    default initialization, smooth units are slow to learn structure much narrower than the whole.
    """
    first = nn.Linear(inputs, width)
    nn.init.normal_(first.weight, 0.0, FINENESS)
    nn.init.uniform_(first.bias, -1.5 * FINENESS, 1.5 * FINENESS)
    return nn.Sequential(first, nn.SiLU(), nn.Linear(width, width), nn.SiLU(), _zeroed(nn.Linear(width, outputs)))


def _zeroed(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    assert layer.bias is not None
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from features.inception import InceptionV3


@pytest.fixture(scope="session")
def inception_state() -> OrderedDict[str, Tensor]:
    """Random weights for Inception, by the published file's names, under which no layer's outputs vanish or explode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = InceptionV3()
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)
                module.momentum = 1.0  # one batch sets the statistics
        with torch.no_grad():
            network.train()(torch.rand(4, 3, 107, 107) * 2 - 1)
    return network.state_dict()


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Tensor], Path], None]:
    """Makes a file of these weights, and makes it the one that counts as published until the test ends."""

    def write(state: dict[str, Tensor], path: Path) -> None:
        torch.save(state, path)
        monkeypatch.setattr("features.inception.WEIGHTS_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())

    return write

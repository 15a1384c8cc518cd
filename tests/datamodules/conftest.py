"""What the tests of data modules share."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def stub_trainer() -> Callable[..., Any]:
    """Makes what a data module reads from a trainer, and no more."""

    def make(
        samples_seen: int = 0,
        micro_batches: int = 1,
        samples_per_step: Callable[[int, int], int] = lambda samples_seen, least: least,
        rank: int = 0,
        world_size: int = 1,
        training: bool = True,
        use_distributed_sampler: bool = False,
        overfit_batches: int = 0,
    ) -> Any:  # noqa: ANN401  # stands for a Trainer
        return SimpleNamespace(
            lightning_module=SimpleNamespace(
                samples_seen=samples_seen, micro_batches=micro_batches, samples_per_step=samples_per_step
            ),
            global_rank=rank,
            world_size=world_size,
            training=training,
            overfit_batches=overfit_batches,
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
            _accelerator_connector=SimpleNamespace(use_distributed_sampler=use_distributed_sampler),
        )

    return make


@pytest.fixture(scope="session")
def shared_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cifar-10-batches-py and others, rebuilt from the optional data beside the repository."""
    unpack = REPOSITORY.parent / "shared" / "data" / "unpack.py"
    if not unpack.is_file():
        pytest.skip("optional data: ../shared/data/unpack.py is not there")
    target = tmp_path_factory.mktemp("shared_data")
    subprocess.run([sys.executable, unpack, target], check=True)
    return target

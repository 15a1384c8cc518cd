"""A GAN small enough for finite differences, and a silent fit."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from models.parts.layers import one_hot
from models.training.base import Batch
from models.training.gan import GAN
from settings.training import AdversarialTraining

TRAINING_SEED = 7


def pytest_configure(config: pytest.Config) -> None:
    """Each of several test processes, and what it starts, takes its share of the cores."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if processes > 1:
        threads = max(1, (os.cpu_count() or 1) // processes)
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
        torch.set_num_threads(threads)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first: whoever gets it is not the last to end."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")


@pytest.fixture(scope="session", autouse=True)
def on_the_cpu() -> Iterator[None]:
    """`--device auto` means the CPU here, whatever else the machine has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(torch.backends.mps, "is_available", lambda: False)
        yield


class ToyGenerator(nn.Module):
    """Latents (N, 3) to samples (N, 1, 4, 4); smooth, without batch statistics."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.inner, self.outer = nn.Linear(3 + classes, 8), nn.Linear(8, 16)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        if self.classes:
            z = torch.cat([z, one_hot(labels, self.classes)], dim=1)
        return torch.tanh(self.outer(torch.tanh(self.inner(z)))).view(-1, 1, 4, 4)


class ToyDiscriminator(nn.Module):
    """Samples (N, 1, 4, 4) to logits (N,); smooth, without batch statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(64, 1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.linear(F.softplus(self.conv(x)).flatten(1)).squeeze(1)


class ToyGAN(GAN):
    """Conditional where `num_classes` is not 0."""

    def __init__(
        self,
        data_shape: Sequence[int] = (1, 4, 4),
        num_classes: int = 0,
        adversarial: AdversarialTraining | None = None,
    ) -> None:
        adversarial = adversarial or AdversarialTraining()
        super().__init__(data_shape, num_classes, ToyGenerator(num_classes), ToyDiscriminator(), 3, adversarial)

    @property
    def label_classes(self) -> int:
        return self.num_classes


@pytest.fixture(scope="session")
def toy_gan() -> Callable[..., GAN]:
    """Makes the toy GAN with the same weights each time; keywords are AdversarialTraining's, and `num_classes`."""

    def make(num_classes: int = 0, **adversarial: Any) -> GAN:  # noqa: ANN401
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return ToyGAN(num_classes=num_classes, adversarial=AdversarialTraining(**adversarial))

    return make


@pytest.fixture
def after_each_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[GAN], None]], None]:
    """Has something done after each step of any GAN, whose samples are counted by then."""

    def have(done: Callable[[GAN], None]) -> None:
        end_step = GAN.end_step

        def ended(self: GAN, *arguments: Any) -> None:  # noqa: ANN401
            end_step(self, *arguments)
            done(self)

        monkeypatch.setattr(GAN, "end_step", ended)

    return have


@pytest.fixture(scope="session")
def batches() -> Callable[..., list[Batch]]:
    """Makes noise batches in [-1, 1], the same each time."""

    def make(count: int, size: int, shape: Sequence[int] = (1, 4, 4), classes: int = 1) -> list[Batch]:
        generator = torch.Generator().manual_seed(2)
        return [
            (
                torch.rand(size, *shape, generator=generator) * 2 - 1,
                torch.randint(classes, (size,), generator=generator),
            )
            for _ in range(count)
        ]

    return make


@pytest.fixture(scope="session")
def fit() -> Callable[..., lightning.Trainer]:
    """Trains on the given batches, once each, with seed 7 and no files; keywords are the Trainer's, and `ckpt_path`."""

    def run(
        model: GAN,
        batches: Sequence[Batch],
        ckpt_path: Path | None = None,
        **settings: Any,  # noqa: ANN401
    ) -> lightning.Trainer:
        model.training_seed = TRAINING_SEED
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
            warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
            warnings.filterwarnings("ignore", message=".*have no `val_dataloader`.*")
            warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
            trainer = lightning.Trainer(**{"accelerator": "cpu", "max_steps": len(batches), **quiet, **settings})
            trainer.fit(model, DataLoader(list(batches), batch_size=None), ckpt_path=ckpt_path, weights_only=True)  # type: ignore[arg-type]
        return trainer

    return run

"""SingleLoss: one network, one loss, and the only place that steps its optimizer.

Likelihood models, flows and flow matching train this way. A family adds the network and its loss.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.parts.ranks import as_on_rank_0
from models.parts.schedules import value_at
from models.training.base import Batch
from models.training.ema import WeightAverage
from models.training.manual import ManualOptimization
from settings.training import Optimization


class SingleLoss(ManualOptimization):
    """A network, its average, and a loss that one optimizer minimises.

    `network` is trained and averaged as a whole: it holds everything that `loss` and `generate` call.
    """

    def __init__(
        self, data_shape: Sequence[int], num_classes: int, network: nn.Module, optimization: Optimization
    ) -> None:
        super().__init__(data_shape, num_classes)
        self.optimization = optimization
        self.micro_batches = optimization.accumulate
        # Convolutions run fastest in channels_last everywhere that matters, CPUs with bf16 units included.
        self.network = network.to(memory_format=torch.channels_last)
        self.average = None if optimization.ema_halflife_kimg is None else WeightAverage(self.network)

    # To be provided by a family.

    @abstractmethod
    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        """The loss of each sample, (N,). It may log further values with `observe`."""

    def on_first_batch(self, x: Tensor, labels: Tensor) -> None:
        """Called before the very first step, with its samples, to initialize from data. Does nothing by default.

        It may set only parameters and buffers of the network; all ranks take over those of rank 0.
        """

    def networks(self) -> dict[str, nn.Module]:
        return {"network": self.network}

    def averages(self) -> dict[str, WeightAverage]:
        return {} if self.average is None else {"network average": self.average}

    def chosen_network(self, weights: str) -> Any:  # noqa: ANN401 - the family's network
        """The network with the weights "ema" or "raw"; the raw one if no average is kept."""
        return self.network if self.average is None or weights == "raw" else self.average.module

    # The step.

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One optimizer step on one loader batch."""
        settings = self.optimization
        (optimizer,), micro_batches = self.begin_step(batch)
        if self.steps == 0 and self.samples_seen == 0:
            self._initialize(*batch)
        with self.phase("step"):
            for x, labels in micro_batches:
                loss = self.loss(x, labels).mean()
                self.observe("loss", loss)
                self.manual_backward(loss / settings.accumulate)
            self.update(self.network, optimizer)
        self.end_step(batch, settings.ema_halflife_kimg, settings.ema_rampup)

    def _initialize(self, x: Tensor, labels: Tensor) -> None:
        with torch.no_grad():
            self.on_first_batch(x, labels)
        as_on_rank_0(self.network)
        if self.average is not None:
            self.average.update(decay=0.0)

    # The optimizer.

    @property
    def clip_norm(self) -> float | None:
        return self.optimization.clip_norm

    def configure_optimizers(self) -> torch.optim.Optimizer:
        settings = self.optimization
        betas, lr = (settings.beta1, settings.beta2), value_at(settings.lr, 0)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        if not settings.weight_decay:
            return torch.optim.Adam(trained, lr, betas, settings.eps, fused=self.fused)
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        return torch.optim.AdamW(groups, lr, betas, settings.eps, fused=self.fused)

    def lr_at(self, samples_seen: int) -> float:
        """The learning rate of the step that begins after so many samples, with its warm-up."""
        lr, warmup_kimg = value_at(self.optimization.lr, samples_seen), self.optimization.warmup_kimg
        return lr * min(1.0, samples_seen / (1000 * warmup_kimg)) if warmup_kimg else lr

    def apply_schedules(self) -> None:
        settings = self.optimization
        (optimizer,) = self.plain_optimizers()
        for group in optimizer.param_groups:
            group["lr"], group["betas"] = self.lr_at(self.samples_seen), (settings.beta1, settings.beta2)
            group["eps"] = settings.eps  # a resumed run may have another
            if group["weight_decay"]:
                group["weight_decay"] = settings.weight_decay

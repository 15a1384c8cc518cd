"""ManualOptimization: what the two training loops share, on one device or several."""

from abc import abstractmethod
from typing import Any

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.parts.ranks import average_gradients, world_size
from models.parts.schedules import Schedule, value_at
from models.training.base import Batch, GenerativeModel
from models.training.ema import decay_for


class ManualOptimization(GenerativeModel):
    """Optimizer steps on gradients that are averaged over all ranks once per step, so that plain `ddp` works.

    One training step takes one loader batch and counts as one of `trainer.global_step`, whatever the number of
    micro-batches and optimizers.
    """

    automatic_optimization = False

    def setup(self, stage: str) -> None:
        refuse_strategy(self.trainer.strategy)

    # To be provided by a loop.

    @abstractmethod
    def apply_schedules(self) -> None:
        """Sets the optimizers' settings for `samples_seen`."""

    @property
    def clip_norm(self) -> float | None:
        """The norm that gradients are clipped to, if any."""
        return None

    def norm_name(self, optimizer: torch.optim.Optimizer) -> str:
        """The name under which the gradient norm of this optimizer's parameters is logged."""
        return "grad_norm"

    # The parts of a training step.

    # What its training step is made of.

    def begin_step(self, batch: Batch) -> tuple[list[Any], list[Batch]]:
        """Sets random numbers and optimizer settings for this step.

        Returns Lightning's wrapped optimizers, and the loader batch in `micro_batches` parts. Of the optimizers, only
        the first one's next step advances `trainer.global_step`: Lightning counts every step of manual optimization, so
        two optimizers would count each training step twice against max_steps. Raises ValueError if the batch does not
        split into that many parts.
        """
        wrapped = self.trainer.model
        if isinstance(wrapped, DistributedDataParallel):
            # Its reducer expects every parameter to get a gradient in every backward pass, which neither adversarial
            # steps nor micro-batches do. Lightning switches it on again after each step.
            wrapped.require_backward_grad_sync = False
        self.seed_step()
        self.apply_schedules()
        optimizers: Any = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        for optimizer in optimizers[1:]:
            self._leave_uncounted(optimizer)
        x, labels = batch
        if len(x) % self.micro_batches:
            raise ValueError(f"a loader batch of {len(x)} does not split into {self.micro_batches} micro-batches")
        size = len(x) // self.micro_batches
        return optimizers, list(zip(x.split(size), labels.split(size), strict=True))

    def update(self, network: nn.Module, optimizer: Any, all_parameters: bool = False) -> None:  # noqa: ANN401 - Lightning's wrapper
        """One optimizer step. With `all_parameters` it also moves those without a gradient, by Adam's decaying moments.

        Frozen parameters, which have no moments, are never moved. Further steps in a training step are not counted.
        """
        if all_parameters:
            for p in network.parameters():
                if p.requires_grad and p.grad is None:
                    p.grad = torch.zeros_like(p)
        average_gradients(network)
        optimizer.step()
        optimizer.zero_grad()
        self._leave_uncounted(optimizer)

    def end_step(
        self, batch: Batch, halflife_kimg: float | Schedule | None, rampup: float | None, start_kimg: float = 0.0
    ) -> None:
        """Updates the averages, by `decay_for` of these arguments, and counts the samples of all ranks."""
        joint = len(batch[0]) * world_size()
        if halflife_kimg is not None:
            halflife = value_at(halflife_kimg, self.samples_seen)
            for average in self.averages().values():
                average.update(decay_for(joint, self.samples_seen, halflife, rampup, start_kimg))
        self.count(joint)

    # The optimizers.

    def plain_optimizers(self) -> list[torch.optim.Optimizer]:
        """torch's optimizers, without Lightning's wrappers."""
        optimizers = self.optimizers(use_pl_optimizer=False)
        return optimizers if isinstance(optimizers, list) else [optimizers]

    @property
    def fused(self) -> bool:
        """Whether Adam may be fused: not on every device, and not with scaled fp16 gradients.

        A fused Adam unscales these itself, too late for our clipping.
        """
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        return self.device.type in ("cpu", "cuda") and not scaled

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clips here, because mixed precision has unscaled the gradients by now, and logs the norms before clipping."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm: Tensor = torch.nn.utils.get_total_norm(gradients)
        self.observe(self.norm_name(optimizer), norm)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)

    def _leave_uncounted(self, optimizer: Any) -> None:  # noqa: ANN401 - Lightning's wrapper
        """Keeps this optimizer's steps out of `trainer.global_step` for the rest of the batch.

        Lightning's loop sets these two hooks for each batch, and removes them afterwards.
        """
        profiler = self.trainer.profiler  # type: ignore[attr-defined]
        optimizer._on_before_step = lambda: profiler.start("optimizer_step")
        optimizer._on_after_step = lambda: profiler.stop("optimizer_step")


def refuse_strategy(strategy: Strategy) -> None:
    """Raises ValueError for a strategy that shards one network's weights over devices."""
    if isinstance(strategy, (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)):
        raise ValueError(
            f"trainer.strategy {type(strategy).__name__} cannot train these models (they step their optimizers "
            "themselves, GANs two over one module, with penalties that differentiate twice): use ddp"
        )

"""ManualOptimization: what every model shares that steps its optimizers itself, on one device or several."""

from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.training.base import GenerativeModel


class ManualOptimization(GenerativeModel):
    """Optimizer steps on gradients that are averaged over all ranks once a step, so that plain `ddp` works.

    One training step is one batch of the loader and counts as one of `trainer.global_step`, whatever number of
    micro-batches and of optimizers it works with.
    """

    automatic_optimization = False

    def setup(self, stage: str) -> None:
        refuse_strategy(self.trainer.strategy)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clips here, where mixed precision has unscaled the gradients; in `training_step` they are still scaled.

        The norms before clipping are observed: afterwards they tell a stable run from an unstable one.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self.observe(self.norm_name(optimizer), norm)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)

    @property
    def clip_norm(self) -> float | None:
        """What gradient norms are clipped to, if they are."""
        return None

    def norm_name(self, optimizer: torch.optim.Optimizer) -> str:
        """The name under which the gradient norm of what `optimizer` trains is reported."""
        return "grad_norm"

    def _plain_optimizers(self) -> list[torch.optim.Optimizer]:
        optimizers = self.optimizers(use_pl_optimizer=False)
        return optimizers if isinstance(optimizers, list) else [optimizers]

    @property
    def _fused(self) -> bool:
        """Whether Adam may be fused.

        A fused one unscales fp16 gradients itself, too late for our clipping; and not every device has one.
        """
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        return self.device.type in ("cpu", "cuda") and not scaled

    def _update(self, network: nn.Module, optimizer: Any, all_parameters: bool = False) -> None:  # noqa: ANN401 - Lightning's wrapper
        """One optimizer step; where `all_parameters`, also of those that no gradient reached: Adam's moments decay.

        Never of those that are frozen, which have no moments.
        """
        if all_parameters:
            for p in network.parameters():
                if p.requires_grad and p.grad is None:
                    p.grad = torch.zeros_like(p)
        self._average_gradients(network)
        optimizer.step()
        optimizer.zero_grad()

    # Several devices.

    @property
    def _world_size(self) -> int:
        return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1

    def _leave_out_the_reducer(self) -> None:
        """Within this step: Lightning switches DDP's reducer on again after each.

        The reducer expects every parameter to receive a gradient in every backward pass, which no adversarial step
        gives it, nor one of several micro-batches. We average each network's gradients ourselves, once a step.
        """
        wrapped = self.trainer.model
        if isinstance(wrapped, DistributedDataParallel):
            wrapped.require_backward_grad_sync = False

    def _sum_over_ranks(self, values: Tensor) -> Tensor:
        if self._world_size > 1:
            dist.all_reduce(values)
        return values

    def _average_gradients(self, network: nn.Module) -> None:
        if self._world_size == 1:
            return
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        joint = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(joint)
        joint /= self._world_size
        for gradient, mean in zip(gradients, joint.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def _as_on_rank_0(self, network: nn.Module) -> None:
        """Gives a network on every rank the weights and buffers that it has on rank 0."""
        if self._world_size > 1:
            for tensor in (*network.parameters(), *network.buffers()):
                dist.broadcast(tensor.data, 0)


def refuse_strategy(strategy: Strategy) -> None:
    """Raises ValueError for a strategy that shares out one network's weights over devices."""
    if isinstance(strategy, (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)):
        raise ValueError(
            f"trainer.strategy {type(strategy).__name__} cannot train these models (they step their optimizers "
            "themselves, GANs two over one module, with penalties that differentiate twice): use ddp"
        )

"""Several processes that train one model: their number, and sums over them. A single process works too."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx


def world_size() -> int:
    """The number of processes that train together; 1 if none were started."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _JointSum(torch.autograd.Function):
    """The sum of a tensor over all ranks. The gradient is the sum of all ranks' gradients, so that it can be
    differentiated any number of times (torch.distributed.nn's own is deprecated without a public successor).
    """

    @staticmethod
    def forward(context: FunctionCtx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: FunctionCtx, gradient: Tensor) -> Tensor:
        return joint_sum(gradient)


def joint_sum(x: Tensor) -> Tensor:
    """The sum of `x` over all ranks, differentiable."""
    total: Tensor = _JointSum.apply(x) if world_size() > 1 else x
    return total


def joint_mean(x: Tensor) -> Tensor:
    """The mean of `x` over all ranks, differentiable."""
    return joint_sum(x) / world_size()


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sums `values` over all ranks in place, without a gradient."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def average_gradients(network: nn.Module) -> None:
    """Replaces the gradients of the parameters of `network` with their means over all ranks."""
    if world_size() == 1:
        return
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    joint = sum_over_ranks(torch.cat([gradient.flatten() for gradient in gradients])) / world_size()
    for gradient, mean in zip(gradients, joint.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def as_on_rank_0(network: nn.Module) -> None:
    """Copies the weights and buffers of a network from rank 0 to every rank."""
    if world_size() > 1:
        for tensor in (*network.parameters(), *network.buffers()):
            dist.broadcast(tensor.data, 0)

"""Layers that families share."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx


class _JointSum(torch.autograd.Function):
    """The sum of a tensor over all ranks. Its gradient is the sum of all ranks' gradients, and so on: it differentiates
    as often as one likes (torch.distributed.nn's own was deprecated without a public successor).
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
    total: Tensor = _JointSum.apply(x)
    return total


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the joint batch of all ranks, so that training does not depend on their number.

    torch's own SyncBatchNorm runs on CUDA only; this one runs wherever ranks can add, and can be differentiated
    twice. One process takes torch's ordinary kernel.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            x32 = x if x.dtype == torch.float64 else x.float()
            world = dist.get_world_size()
            count = x32.numel() // x32.shape[1] * world
            # The mean first, then the mean squared deviation: E[x^2] - E[x]^2 would lose digits.
            mean = joint_sum(x32.mean((0, 2, 3))) / world
            centred = x32 - mean[:, None, None]
            variance = joint_sum(centred.square().mean((0, 2, 3))) / world
            if self.track_running_stats:
                self._update_running_statistics(mean.detach(), variance.detach() * count / (count - 1))
            scale = torch.rsqrt(variance + self.eps) * self.weight
            return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """int64 labels (N,) to float32 (N, num_classes)."""
    return F.one_hot(labels, num_classes).float()

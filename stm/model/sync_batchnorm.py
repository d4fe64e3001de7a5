"""Batch normalisation over the global batch of a data-parallel job, on any device.

``torch.nn.SyncBatchNorm`` runs only on accelerators. This layer adds up three sums over the ranks with a differentiable
all-reduce, so that a laptop can run and test what a cluster trains with.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from stm.errors import UserError


class SyncBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` that normalises by the statistics of all ranks' inputs together, in training.

    In eval mode, or with only one rank, it computes what ``nn.BatchNorm2d`` computes.
    """

    counts: bool = True
    """Whether this rank's input enters the statistics. If not, the rank still joins the all-reduce, which the other
    ranks would otherwise wait for."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Float [N, C, H, W] -> the same shape and dtype. Statistics are float32."""
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        mean_C, variance_C, count = self._statistics(input)
        if self.running_mean is not None and self.running_var is not None:
            assert self.momentum is not None
            with torch.no_grad():
                if self.num_batches_tracked is not None:  # a recomputation does not count as a step
                    self.num_batches_tracked += 1
                unbiased_C = variance_C * (count / (count - 1).clamp(min=1))
                self.running_mean.lerp_(mean_C.detach(), self.momentum)
                self.running_var.lerp_(unbiased_C.detach(), self.momentum)
        scale_C = self.weight * torch.rsqrt(variance_C + self.eps)
        shift_C = self.bias - mean_C * scale_C
        scaled = input.float() * scale_C[:, None, None] + shift_C[:, None, None]
        return scaled.to(input.dtype)

    def _statistics(self, input: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean and biased variance over all ranks, float32 [C] each, and the number of values in a channel, [1]."""
        values = input.float() * float(self.counts)
        count = torch.full((1,), input.numel() / input.shape[1] * self.counts, device=input.device)
        sums = torch.cat([values.sum((0, 2, 3)), values.square().sum((0, 2, 3)), count])
        total = _AllReduce.apply(sums)
        num_channels, count = input.shape[1], total[-1:].detach().clamp(min=1)
        mean_C = total[:num_channels] / count
        variance_C = (total[num_channels:-1] / count - mean_C.square()).clamp(min=0)
        return mean_C, variance_C, count


class _AllReduce(torch.autograd.Function):
    """Sum over ranks. Its gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: object, values: torch.Tensor) -> torch.Tensor:
        del ctx
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, grad: torch.Tensor) -> torch.Tensor:
        del ctx
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total


def synchronise_batchnorm(model: nn.Module) -> None:
    """Convert every ``nn.BatchNorm2d`` of ``model`` to ``SyncBatchNorm2d`` in place, with its parameters and buffers.

    Raises:
        UserError: (a ValueError) a batch normalisation is of another class, which cannot be converted.
    """
    for name, module in model.named_modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d
        elif isinstance(module, _BatchNorm) and type(module) is not SyncBatchNorm2d:
            raise UserError(
                f"sync_batchnorm: {name} is a {type(module).__name__}, which cannot be synchronised over the "
                "workers; leave sync_batchnorm out, or use nn.BatchNorm2d in the block"
            )


def count_batch(model: nn.Module, counts: bool) -> None:
    """Set whether this rank's next batch enters the statistics."""
    for module in model.modules():
        if isinstance(module, SyncBatchNorm2d):
            module.counts = counts

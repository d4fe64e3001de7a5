"""The moving average of a network's weights. If it is on, the average is validated, saved and shipped."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage:
    """A copy of a network: average = decay * average + (1 - decay) * weights, also for the statistics of BN.

    PyTorch's ``AveragedModel`` copies its counter to the device in every step, which waits for the step to end. This
    class copies nothing.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(network).requires_grad_(False)
        self.num_updates = 0
        self._move = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Update the average by one step; the first update copies ``network``."""
        averages, weights = [], []
        for average, weight in zip(_tensors(self.module), _tensors(network), strict=True):
            if self.num_updates and average.is_floating_point():
                averages.append(average)
                weights.append(weight)
            else:
                average.copy_(weight)
        if averages:
            self._move(averages, weights, None)
        self.num_updates += 1


def _tensors(network: nn.Module) -> list[torch.Tensor]:
    return [*network.parameters(), *network.buffers()]

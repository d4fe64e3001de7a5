"""The moving average of a network's weights, which is what is validated, kept and shipped where it is on."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage:
    """A copy of a network that follows it: average = decay * average + (1 - decay) * weights, BN's statistics too.

    PyTorch's ``AveragedModel`` sends its counter to the device in every step, and waits there until the step is over;
    here nothing is sent.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(network).requires_grad_(False)
        self.num_updates = 0
        self._move = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Follow ``network`` by a step; the first makes the average equal to it."""
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

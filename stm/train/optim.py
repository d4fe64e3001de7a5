"""SGD, its schedule and the weighted loss (paper, section 4.1)."""

from __future__ import annotations

import bisect

import torch
from torch import nn
from torch.nn import functional as F

from stm.config import OptimConfig


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """SGD over every parameter, with one weight decay for all of them, as the paper trains."""
    return torch.optim.SGD(
        model.parameters(),
        lr=config.effective_lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )


def learning_rate(config: OptimConfig, step: int, steps_per_epoch: int) -> float:
    """The rate of step ``step`` (from 0): a pure function, so a schedule has no state to save.

    Linear warm-up from one step's share to the peak, then ``gamma`` at each milestone (in epochs).
    """
    warmup_steps = config.warmup_epochs * steps_per_epoch
    warm = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    return (
        config.effective_lr
        * warm
        * config.gamma ** bisect.bisect_right(config.milestones, step // steps_per_epoch)
    )


def weighted_loss_sum(
    logits_NK: torch.Tensor,
    labels_N: torch.Tensor,
    weights_N: torch.Tensor,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Sum over samples of weight x cross-entropy; float32 scalar.

    Divided by the weight of the *global* batch it is the global mean, however many ranks share the batch and however
    much of it is padding.
    """
    losses_N = F.cross_entropy(
        logits_NK.float(), labels_N, reduction="none", label_smoothing=label_smoothing
    )
    return (losses_N * weights_N).sum()

"""SGD, its parameter groups, its schedule and the weighted loss (paper, section 4.1)."""

from __future__ import annotations

import bisect
import re

import torch
from torch import nn
from torch.nn import functional as F

from stm.config import OptimConfig
from stm.errors import UserError


def parameter_groups(
    model: nn.Module, config: OptimConfig
) -> list[tuple[str, float, float, list[nn.Parameter]]]:
    """Each parameter in exactly one group: (pattern, lr scale, weight decay, parameters).

    The first pattern found in a parameter's name takes it; what none takes makes the last group, with pattern "".
    Raises ``UserError`` for a pattern that takes nothing: it does not do what its author thought.
    """
    members: list[list[nn.Parameter]] = [[] for _ in range(len(config.groups) + 1)]
    for name, parameter in model.named_parameters():
        number = next(
            (i for i, group in enumerate(config.groups) if re.search(group.match, name)), -1
        )
        members[number].append(parameter)
    groups = []
    for group, parameters in zip(config.groups, members, strict=False):
        if not parameters:
            names = [name for name, _ in model.named_parameters()]
            raise UserError(
                f"--optim.groups: {group.match!r} takes no parameter that an earlier group left; "
                f"names are like {names[0]}, {names[len(names) // 2]}, {names[-1]}"
            )
        decay = config.weight_decay if group.weight_decay is None else group.weight_decay
        groups.append((group.match, group.lr_scale, decay, parameters))
    if members[-1]:
        groups.append(("", 1.0, config.weight_decay, members[-1]))
    return groups


def build_optimizer(
    model: nn.Module, config: OptimConfig, *, fused: bool = False
) -> torch.optim.Optimizer:
    """SGD over every parameter; without groups all have one rate and weight decay, as the paper trains.

    ``fused`` updates all of a group in one kernel; for parameters on a GPU.
    """
    return torch.optim.SGD(
        [
            {"params": parameters, "weight_decay": decay, "lr_scale": scale}
            for _, scale, decay, parameters in parameter_groups(model, config)
        ],
        lr=config.effective_lr,
        momentum=config.momentum,
        fused=fused or None,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the schedule's rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


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
    class_weights_K: torch.Tensor | None = None,
    adjustment_K: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sum over samples of weight x weight of the class x cross-entropy of the adjusted logits; float32 scalar.

    Divided by the weight of the *global* batch it is the global mean, however many ranks share the batch and however
    much of it is padding.
    """
    logits_NK = logits_NK.float()
    if adjustment_K is not None:
        logits_NK = logits_NK + adjustment_K
    losses_N = F.cross_entropy(
        logits_NK, labels_N, reduction="none", label_smoothing=label_smoothing
    )
    if class_weights_K is not None:
        losses_N = losses_N * class_weights_K[labels_N]
    return (losses_N * weights_N).sum()

"""The optimizer, its parameter groups, its schedule and the weighted loss (paper, section 4.1)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from stm.config import OptimConfig, ParameterGroup
from stm.errors import UserError
from stm.model.network import VideoResNet


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate and a weight decay."""

    pattern: str
    """The pattern in ``optim.groups`` that matched them; "" if none did."""
    lr_scale: float
    weight_decay: float
    parameters: list[nn.Parameter]


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[Group]:
    """Put each parameter into exactly one group, in the order of ``optim.groups``; unmatched parameters come last.

    A parameter belongs to the first pattern that is found in its name. Its scales multiply: the group's, the preset's
    (2 for a bias with `tsn`) and the layer's. A group's weight decay overrides the preset's.

    Raises ``UserError`` for a pattern that matches no remaining parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    biases, layers = _biases(model), _layers(model, names)
    found: dict[tuple[int, float, float], Group] = {}
    taken = set()
    for name, parameter in model.named_parameters():
        number, group = next(
            ((i, each) for i, each in enumerate(config.groups) if re.search(each.match, name)),
            (len(config.groups), ParameterGroup(match="")),
        )
        taken.add(number)
        scale, decay = group.lr_scale, config.weight_decay
        if (
            config.preset and parameter.ndim <= 1
        ):  # biases, and the scales and shifts of normalisation
            decay = 0.0
        if config.preset == "tsn" and name in biases:
            scale *= 2
        if config.layerwise_decay != 1:
            scale *= config.layerwise_decay ** layers[name]
        decay = decay if group.weight_decay is None else group.weight_decay
        made = Group(group.match, scale, decay, [])
        found.setdefault((number, scale, decay), made).parameters.append(parameter)
    for number, group in enumerate(config.groups):
        if number not in taken:
            raise UserError(
                f"--optim.groups: {group.match!r} takes no parameter that an earlier group left; "
                f"names are like {names[0]}, {names[len(names) // 2]}, {names[-1]}"
            )
    return [found[key] for key in sorted(found, key=lambda key: key[0])]


def _biases(model: nn.Module) -> set[str]:
    """Return the names of the biases of convolutions and linear layers."""
    return {
        f"{name}.bias"
        for name, module in model.named_modules()
        if isinstance(module, _ConvNd | nn.Linear) and module.bias is not None
    }


def _layers(model: nn.Module, names: list[str]) -> dict[str, int]:
    """Count the layers between each parameter and the classifier: a residual block is one, the stem is the lowest."""
    blocks = list(model.blocks) if isinstance(model, VideoResNet) else []
    below = {block: len(blocks) - i for i, block in enumerate(blocks)}
    stem = len(blocks) + 1
    return {
        name: 0 if name.startswith("fc.") else below.get(".".join(name.split(".")[:2]), stem)
        for name in names
    }


def build_optimizer(
    model: nn.Module, config: OptimConfig, *, fused: bool = False
) -> torch.optim.Optimizer:
    """Build the optimizer over all parameters. It skips frozen ones, because they have no gradient.

    ``fused`` updates a group in one kernel (SGD on a GPU). Otherwise the multi-tensor form (``foreach``) is used, whose
    weights are bit-identical to those of the plain loop.
    """
    groups: list[Any] = [
        {"params": group.parameters, "weight_decay": group.weight_decay, "lr_scale": group.lr_scale}
        for group in parameter_groups(model, config)
    ]
    if config.name == "adamw":
        beta1, beta2 = map(float, config.betas)  # PyTorch refuses an int beside a float
        return torch.optim.AdamW(
            groups, lr=config.effective_lr, betas=(beta1, beta2), eps=config.eps, foreach=True
        )
    form = {"fused": True} if fused else {"foreach": True}
    return torch.optim.SGD(groups, lr=config.effective_lr, momentum=config.momentum, **form)


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the optimizer state of a checkpoint; ``fused`` and ``foreach`` stay as set for this device.

    Raises ``UserError`` if the state is of another kind of optimizer.
    """
    forms = {name: optimizer.defaults[name] for name in ("fused", "foreach")}
    if ("betas" in optimizer.defaults) != ("betas" in state["param_groups"][0]):
        before, now = ("sgd", "adamw")[:: 1 if "betas" in optimizer.defaults else -1]
        raise UserError(
            f"it holds the state of {before}, and --optim.name is {now}: set it back, or choose another --train.name"
        )
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        group.update(forms)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set each group's rate: ``rate`` times the group's scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def learning_rate(config: OptimConfig, step: int, steps_per_epoch: int) -> float:
    """Return the rate of step ``step`` (from 0). It is a pure function, so there is no schedule state to save.

    The rate is a linear warm-up to the peak times the decay of the schedule: ``gamma`` for each milestone passed, or a
    line or half a cosine from the end of the warm-up to the end of the last epoch.
    """
    num_steps, warmup_steps = (
        config.epochs * steps_per_epoch,
        config.warmup_epochs * steps_per_epoch,
    )
    warm = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    least = config.min_lr / config.lr
    if config.schedule == "step":
        behind = sum(
            step >= (value * steps_per_epoch if value >= 1 else round(value * num_steps))
            for value in config.milestones
        )
        return config.effective_lr * warm * max(least, config.gamma**behind)
    done = max(0.0, step - warmup_steps) / max(1.0, num_steps - warmup_steps)
    left = 1 - done if config.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return config.effective_lr * warm * (least + (1 - least) * max(0.0, left))


def weighted_loss_sum(
    logits_NK: torch.Tensor,
    labels_N: torch.Tensor,
    weights_N: torch.Tensor,
    label_smoothing: float = 0.0,
    class_weights_K: torch.Tensor | None = None,
    adjustment_K: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sum over samples of sample weight x class weight x cross-entropy of the adjusted logits; float32 scalar.

    Divided by the weight of the *global* batch it is the global mean, whatever the number of ranks and the amount of
    padding.
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

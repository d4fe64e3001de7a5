"""Freezing: parameters without a gradient, and layers whose statistics do not change."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from stm.config import OptimConfig
from stm.errors import UserError
from stm.model import build_model
from stm.model.network import PLAIN, VideoResNet
from stm.train.optim import parameter_groups

STEM = ("conv1", "bn1")


def freeze(model: nn.Module, config: OptimConfig) -> list[nn.Module]:
    """Turn off the gradients of all that ``optim`` freezes: groups of rate 0, the parts in `freeze`, and `partial_bn`.

    Returns the modules that must be in eval mode when the network trains (`keep_still`), so that normalisation keeps
    its statistics: those whose parameters, with those of their submodules, are all frozen.

    Raises ``UserError`` for a part that the network does not have, or if nothing is left to train.
    """
    frozen = [
        p
        for group in parameter_groups(model, config)
        if group.lr_scale == 0
        for p in group.parameters
    ]
    for name in config.freeze:
        for part in STEM if name == "stem" else (name,):
            frozen += _part(model, part).parameters()
    if config.partial_bn:
        for layer in _norms_of_resnet(model)[1:]:
            frozen += layer.parameters()
    for parameter in frozen:
        parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(
            "--optim.freeze and --optim.groups freeze the whole network: leave at least fc to train"
        )
    return [
        module
        for module in model.modules()
        if (own := list(module.parameters())) and not any(p.requires_grad for p in own)
    ]


def keep_still(modules: list[nn.Module]) -> None:
    """Put the modules that `freeze` returned back into eval mode, after ``model.train()``."""
    for module in modules:
        module.eval()


def _part(model: nn.Module, name: str) -> nn.Module:
    modules = dict(model.named_modules())
    if name and name in modules and list(modules[name].parameters()):
        return modules[name]
    parts = [child for child, module in model.named_children() if list(module.parameters())]
    raise UserError(
        f"--optim.freeze {name!r}: the network has no such part with weights; its parts are stem, {', '.join(parts)}, "
        "and what is in them, such as layer1.0"
    )


def _norms_of_resnet(model: nn.Module) -> list[nn.Module]:
    """Return the batch normalisation layers of ResNet in order, without those that the blocks add to it."""
    norms = {name: layer for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)}
    if not isinstance(model, VideoResNet):
        return list(norms.values())
    with torch.device("meta"):
        of_resnet = dict(build_model(PLAIN, model.depth, 1).named_modules())
    return [layer for name, layer in norms.items() if name in of_resnet]

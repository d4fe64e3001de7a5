"""Count a network's parameters and operations the way the paper does.

Try it; the paper reports 33.3 G::

    python -c "from stm.model import *; print(count_operations(build_model('stm'), num_frames=8))"
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

_BATCH_NORMS = {
    "aten::native_batch_norm",
    "aten::_native_batch_norm_legit",
    "aten::_native_batch_norm_legit_no_training",
    "aten::cudnn_batch_norm",
}


def count_parameters(model: nn.Module) -> int:
    """Number of learnable weights, without the running statistics of batch normalisation."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_operations(model: nn.Module, num_frames: int = 8, size: int = 224) -> int:
    """Operations for one clip: one for each multiply-add of convolutions and FC, two for each element that BN reads.

    These are the paper's "FLOPs". They are counted in a forward pass of a copy on the meta device, which takes
    milliseconds and does not change the model.

    Args:
        model: a network from ``build_model``, on any device.
        num_frames: T.
        size: height and width of a frame in pixels.
    """
    # The memo replaces each weight by a meta tensor, so that the copy duplicates no weight.
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"))
        for parameter in model.parameters()
    }
    memo.update({id(buffer): torch.empty_like(buffer, device="meta") for buffer in model.buffers()})
    shadow = copy.deepcopy(model, memo).eval()
    clip = torch.empty(1, num_frames, 3, size, size, device="meta")
    with torch.no_grad(), _OperationCounter() as counter:
        shadow(clip)
    return counter.total


class _OperationCounter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name == "aten::convolution":
            weight = args[1]
            self.total += output.numel() * weight[0].numel()
        elif name == "aten::addmm":
            self.total += output.numel() * args[1].shape[1]
        elif name in _BATCH_NORMS:
            self.total += 2 * args[0].numel()
        return output

"""Where the network takes a Triton kernel, and where PyTorch's own operators.

    STM_TRITON=1             for CUDA tensors, if the kernels' results agree with PyTorch's on that GPU; with
                             TRITON_INTERPRET=1 for CPU tensors too, by Triton's interpreter
    STM_TRITON unset or 0    never: no GPU has shown yet that they are faster

Run on a CPU::

    STM_TRITON=1 TRITON_INTERPRET=1 python -m pytest tests/model/test_kernels.py
"""

from __future__ import annotations

import math
import os

import torch
from torch import Tensor

from stm.errors import UserError

VARIABLE = "STM_TRITON"
CHOICE = os.environ.get(VARIABLE, "")
if CHOICE not in ("", "0", "1"):
    raise UserError(
        f"{VARIABLE}={CHOICE}: set it to 1 for the Triton kernels, to 0 or not at all for PyTorch's operators"
    )

TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
LARGEST_FRAME = 2**31
"""Values, and `LARGEST_AREA` pixels: more would not fit the kernels' offsets and grid."""
LARGEST_AREA = 2**20
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

__all__ = ["channelwise_temporal_conv", "feature_difference", "takes_kernel"]

AVAILABLE = CHOICE == "1"
"""Whether the kernels were imported."""
if AVAILABLE:
    try:
        from stm.model.kernels.check import agrees_with_pytorch
        from stm.model.kernels.motion import feature_difference
        from stm.model.kernels.temporal import channelwise_temporal_conv
    except ImportError as error:
        raise UserError(
            f"{VARIABLE}=1: Triton cannot be imported ({error}). Install it, or leave the variable out"
        ) from error


def takes_kernel(frames: Tensor) -> bool:
    """Whether ``frames: [N*T, C, H, W]`` go through the kernels.

    The first tensor of a type on a GPU decides for all that follow (see ``stm.model.kernels.check``).
    """
    if not AVAILABLE:
        return False
    if not (frames.is_cuda or (INTERPRETED and frames.is_cpu)):
        return False
    _, channels, height, width = frames.shape
    if frames.dtype not in TYPES or height * width > LARGEST_AREA:
        return False
    if math.prod((channels, height, width)) >= LARGEST_FRAME:
        return False
    return INTERPRETED or agrees_with_pytorch(frames.get_device(), frames.dtype)

"""Where the network takes a Triton kernel, and where PyTorch's own operators.

    STM_TRITON unset   kernels for CUDA tensors, if Triton is installed and its results agree with PyTorch's on that GPU
    STM_TRITON=0       never
    STM_TRITON=1       always for CUDA tensors; with TRITON_INTERPRET=1 for CPU tensors too, by Triton's interpreter

Run on a CPU::

    TRITON_INTERPRET=1 python -m pytest tests/model/test_kernels.py
"""

from __future__ import annotations

import importlib.util
import math
import os

import torch
from torch import Tensor

from stm.errors import UserError

VARIABLE = "STM_TRITON"
CHOICE = os.environ.get(VARIABLE, "")
if CHOICE not in ("", "0", "1"):
    raise UserError(f"{VARIABLE}={CHOICE}: set it to 0 or 1, or leave it out to choose by the GPU")

TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
LARGEST_FRAME = 2**31
"""Values, and `LARGEST_AREA` pixels: more would not fit the kernels' offsets and grid."""
LARGEST_AREA = 2**20
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_BUILT_FOR_GPU = bool(torch.version.cuda or torch.version.hip)

__all__ = ["channelwise_temporal_conv", "feature_difference", "takes_kernel"]

AVAILABLE = False
"""Whether the kernels were imported: Triton is asked for only where it can be of use."""
if CHOICE == "1" or (CHOICE == "" and _BUILT_FOR_GPU and importlib.util.find_spec("triton")):
    try:
        from stm.model.kernels.check import agrees_with_pytorch
        from stm.model.kernels.motion import feature_difference
        from stm.model.kernels.temporal import channelwise_temporal_conv
    except ImportError as error:
        if CHOICE == "1":
            raise UserError(
                f"{VARIABLE}=1: Triton cannot be imported ({error}). Install it, or leave the variable out"
            ) from error
    else:
        AVAILABLE = True


def takes_kernel(frames: Tensor) -> bool:
    """Whether ``frames: [N*T, C, H, W]`` go through the kernels.

    The first tensor of a type on a GPU decides for all that follow (see ``stm.model.kernels.check``).
    """
    if not AVAILABLE or CHOICE == "0":
        return False
    if not (frames.is_cuda or (INTERPRETED and CHOICE == "1" and frames.is_cpu)):
        return False
    _, channels, height, width = frames.shape
    if frames.dtype not in TYPES or height * width > LARGEST_AREA:
        return False
    if math.prod((channels, height, width)) >= LARGEST_FRAME:
        return False
    return CHOICE == "1" or agrees_with_pytorch(frames.get_device(), frames.dtype)

"""Choose between Triton kernels and PyTorch's operators for equations 1 and 2.

    STM_TRITON=1             Triton kernels for CUDA tensors, if their results agree with PyTorch's on that GPU. With
                             TRITON_INTERPRET=1 also for CPU tensors, in Triton's interpreter.
    STM_TRITON unset or 0    PyTorch's operators. The kernels have not yet been measured to be faster on a GPU.

To test the kernels on a CPU::

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
        f"{VARIABLE}={CHOICE}: set it to 1 for the Triton kernels; set it to 0 or unset it for PyTorch's operators"
    )

TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
LARGEST_FRAME = 2**31
"""Values of a frame (all channels) that the kernels' offsets can address."""
LARGEST_AREA = 2**20
"""Pixels of a frame that the kernels' grid can cover."""
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

__all__ = ["channelwise_temporal_conv", "feature_difference", "takes_kernel"]

AVAILABLE = CHOICE == "1"
"""Whether the kernels are imported."""
if AVAILABLE:
    try:
        from stm.model.kernels.check import agrees_with_pytorch
        from stm.model.kernels.motion import feature_difference
        from stm.model.kernels.temporal import channelwise_temporal_conv
    except ImportError as error:
        raise UserError(
            f"{VARIABLE}=1: Triton cannot be imported ({error}). Install Triton, or unset {VARIABLE}"
        ) from error


def takes_kernel(frames: Tensor) -> bool:
    """Whether ``frames: [N*T, C, H, W]`` are computed by the kernels.

    The first call for a GPU and a dtype compares the kernels with PyTorch (``stm.model.kernels.check``). Its result
    holds for all later calls.
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

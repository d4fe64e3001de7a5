"""Compare the kernels' results on a GPU with PyTorch's, once for each GPU and dtype.

Triton compiles on the machine that runs it, which needs a C compiler and a driver that Triton supports. A run must not
fail because one is missing, and must not train with a kernel that was compiled wrongly.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from stm.model.kernels.motion import feature_difference
from stm.model.kernels.temporal import channelwise_temporal_conv
from stm.model.time_axis import (
    join_time,
    plain_feature_difference,
    plain_temporal_conv,
    split_time,
)

SHAPE = (2, 4, 12, 12, 64)
"""[N, T, H, W, C] of the compared clips. Their pixels do not divide evenly into tiles."""
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Largest difference that is accepted, as a share of the largest value."""

Operator = Callable[[Tensor, Tensor], Tensor]


@torch.compiler.assume_constant_result
def agrees_with_pytorch(device_index: int, dtype: torch.dtype) -> bool:
    """Whether outputs and gradients of both kernels agree with PyTorch's in float64 on the CPU; warns if they do not.

    ``device_index`` -1 is the CPU. The check works in any mode (tracing, autocast, inference) and draws no numbers from
    the global generators. In a compiled graph the result is a constant.
    """
    return answer(device_index, dtype)


@functools.cache
def answer(device_index: int, dtype: torch.dtype) -> bool:
    """Cached result of ``agrees_with_pytorch``. It is separate because ``torch.compile`` traces through a cache."""
    device = torch.device("cuda", device_index) if device_index >= 0 else torch.device("cpu")
    try:
        difference = largest_difference(device, dtype)
    except Exception as error:  # errors of a compiler, a driver and a device have no common type
        problem = f"do not run ({type(error).__name__}: {error})"
    else:
        if difference <= TOLERANCES[dtype]:
            return True
        problem = f"differ from PyTorch's operators by {difference:.1e} of the largest value"
    warnings.warn(
        f"Triton's kernels {problem} on {device} in {dtype}: stm uses PyTorch's operators instead. "
        "To use them without this warning, unset STM_TRITON",
        stacklevel=2,
    )
    return False


def largest_difference(device: torch.device, dtype: torch.dtype) -> float:
    """Largest difference in outputs and gradients of both kernels, as a share of the largest value; inf for nan."""

    def on_clips(plain: Callable[[Tensor, Tensor, int], Tensor]) -> Operator:
        return lambda clips, taps: split_time(plain(join_time(clips), taps, SHAPE[1]), SHAPE[1])

    with (
        _disable_current_modes(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        torch.autocast("cpu", enabled=False),
    ):
        temporal = _difference(
            channelwise_temporal_conv, on_clips(plain_temporal_conv), (3, 1), device, dtype
        )
        motion = _difference(
            feature_difference, on_clips(plain_feature_difference), (3, 3), device, dtype
        )
    return max(temporal, motion)


def _difference(
    kernel: Operator,
    plain: Operator,
    size: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
) -> float:
    generator = torch.Generator().manual_seed(0)
    clips = torch.randn(SHAPE, generator=generator).to(dtype)
    taps = torch.randn(SHAPE[-1], 1, *size, generator=generator).to(dtype)
    gradient = torch.randn(SHAPE, generator=generator).to(dtype)

    def results(function: Operator, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        inputs = [values.to(device, dtype).requires_grad_() for values in (clips, taps)]
        output = function(*inputs)
        grads = torch.autograd.grad(output, inputs, gradient.to(device, dtype))
        return [values.detach().double().cpu() for values in (output, *grads)]

    worst = 0.0
    expected = results(plain, torch.device("cpu"), torch.float64)
    for found, wanted in zip(results(kernel, device, dtype), expected, strict=True):
        share = (found - wanted).abs().max() / wanted.abs().max()
        worst = max(worst, float(share.nan_to_num(nan=torch.inf)))
    return worst

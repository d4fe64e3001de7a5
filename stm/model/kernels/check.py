"""Whether a GPU computes with the kernels what PyTorch computes without them: asked once for each GPU and type.

Triton compiles on the machine it runs on, which takes a C compiler and a driver it knows. A run must not fail for the
want of them, nor learn from a kernel that was compiled wrongly.
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
"""[N, T, H, W, C] of what is compared; its pixels fill no tile."""
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Largest difference let through, as a share of the largest value."""

Operator = Callable[[Tensor, Tensor], Tensor]


@torch.compiler.assume_constant_result
def agrees_with_pytorch(device_index: int, dtype: torch.dtype) -> bool:
    """Compare outputs and gradients of both kernels with PyTorch's in float64 on the CPU; a warning where it is False.

    ``device_index`` -1 is the CPU. It may be asked in any mode (tracing, autocast, inference), and draws nothing from
    the global generators. To a compiled graph the answer is a constant.
    """
    return answer(device_index, dtype)


@functools.cache
def answer(device_index: int, dtype: torch.dtype) -> bool:
    """What ``agrees_with_pytorch`` says, found out once; apart from it because a compiler looks through a cache."""
    device = torch.device("cuda", device_index) if device_index >= 0 else torch.device("cpu")
    try:
        difference = largest_difference(device, dtype)
    except (
        Exception
    ) as error:  # a compiler, a driver, a device: what they raise has no type in common
        problem = f"do not run ({type(error).__name__}: {error})"
    else:
        if difference <= TOLERANCES[dtype]:
            return True
        problem = f"differ from PyTorch's operators by {difference:.1e} of the largest value"
    warnings.warn(
        f"Triton's kernels {problem} on {device} in {dtype}: PyTorch's operators are taken instead. "
        "leave STM_TRITON out to take them without a warning",
        stacklevel=2,
    )
    return False


def largest_difference(device: torch.device, dtype: torch.dtype) -> float:
    """Of outputs and gradients of both kernels on ``device``, as a share of the largest value; nan counts as all."""

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

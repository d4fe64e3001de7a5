"""The channel-wise temporal convolution in Triton: each frame read once and written once, forward and backward.

Importing this needs Triton. ``stm.model.temporal`` takes it for CUDA tensors under ``STM_TRITON=1``, and PyTorch's
convolution everywhere else. Run on a CPU by Triton's interpreter::

    TRITON_INTERPRET=1 python -m pytest tests/model/test_kernels.py

A program owns a tile of pixels and channels of one clip and walks through its T frames, with three of them in
registers. Sums are float32 (float64 of float64), whatever the type of the frames.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

CHANNELS_IN_TILE = 64
FORWARD_TILE = 2048
BACKWARD_TILE = 1024
"""Values of a tile; backward holds nine of them in registers, forward three."""


def channelwise_temporal_conv(clips: Tensor, weight: Tensor) -> Tensor:
    """What ``stm.model.temporal.temporal_conv`` does, on its own layout.

    Args:
        clips: float, contiguous ``[N, T, H, W, C]``; under autocast it is taken in autocast's type.
        weight: float ``[C, 1, 3, 1]``, taps for frames t-1, t, t+1. Its gradient has its type.

    Returns:
        as ``clips``.
    """
    device = clips.device.type
    if torch.is_autocast_enabled(device):
        clips = clips.to(torch.get_autocast_dtype(device))
    return _ChannelwiseTemporalConv.apply(clips, weight)


class _ChannelwiseTemporalConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, clips: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(clips, weight)
        output = torch.empty_like(clips)
        grid, sizes, block = _tiles(clips, FORWARD_TILE)
        with torch.cuda.device_of(clips):  # Triton launches on the current device
            _forward[grid](clips, weight.contiguous(), output, *sizes, **block)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        clips, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_clips = torch.empty_like(clips)
        grid, sizes, block = _tiles(clips, BACKWARD_TILE)
        # One row for each tile, and a sum after: the same bits every time, as atomic additions are not.
        sums = clips.new_empty(
            (grid[2] * grid[0], 3, clips.shape[-1]),
            dtype=torch.float64 if clips.dtype == torch.float64 else torch.float32,
        )
        with torch.cuda.device_of(clips):
            _backward[grid](clips, weight.contiguous(), gradient, of_clips, sums, *sizes, **block)
        return of_clips, sums.sum(0).t().reshape(weight.shape).to(weight.dtype)


def _tiles(clips: Tensor, values: int) -> tuple[tuple[int, int, int], tuple[int, ...], Any]:
    """Grid (tiles of pixels, of channels, clips), sizes and constants of a kernel."""
    batch, num_frames, height, width, channels = clips.shape
    block_c = min(triton.next_power_of_2(channels), CHANNELS_IN_TILE)
    block_p = values // block_c
    grid = (triton.cdiv(height * width, block_p), triton.cdiv(channels, block_c), batch)
    sums = tl.float64 if clips.dtype == torch.float64 else tl.float32
    block = {"SUMS": sums, "PIXELS_IN_TILE": block_p, "CHANNELS_IN_TILE": block_c}
    return grid, (num_frames, height * width, channels), block


@triton.jit
def _tile(num_pixels, num_channels, PIXELS_IN_TILE: tl.constexpr, CHANNELS_IN_TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Channels of this program's tile; offsets of its values in a frame, and which of them exist."""
    pixel = tl.program_id(0) * PIXELS_IN_TILE + tl.arange(0, PIXELS_IN_TILE)
    channel = tl.program_id(1) * CHANNELS_IN_TILE + tl.arange(0, CHANNELS_IN_TILE)
    inside = (pixel < num_pixels)[:, None] & (channel < num_channels)[None, :]
    return channel, pixel[:, None] * num_channels + channel[None, :], inside


@triton.jit
def _tap(weight, channel, number, num_channels, SUMS: tl.constexpr):  # type: ignore[no-untyped-def]
    tap = tl.load(weight + 3 * channel + number, mask=channel < num_channels, other=0.0)
    return tap.to(SUMS)[None, :]


@triton.jit
def _load(clip, place, inside, t, num_frames, frame, SUMS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The tile in frame t; zeros beyond the last frame."""
    offset = t * frame + place
    exists = inside & (offset < num_frames * frame)
    return tl.load(clip + offset, mask=exists, other=0.0).to(SUMS)


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    clips,
    weight,
    output,
    num_frames,
    num_pixels,
    num_channels,
    SUMS: tl.constexpr,
    PIXELS_IN_TILE: tl.constexpr,
    CHANNELS_IN_TILE: tl.constexpr,
):
    channel, place, inside = _tile(num_pixels, num_channels, PIXELS_IN_TILE, CHANNELS_IN_TILE)
    of_previous = _tap(weight, channel, 0, num_channels, SUMS)
    of_this = _tap(weight, channel, 1, num_channels, SUMS)
    of_next = _tap(weight, channel, 2, num_channels, SUMS)

    frame = num_pixels * num_channels
    clip = tl.program_id(2).to(tl.int64) * num_frames * frame  # all clips may pass 2^31 values
    x, y = clips + clip, output + clip
    this = _load(x, place, inside, 0, num_frames, frame, SUMS)
    previous = tl.zeros_like(this)
    for t in range(num_frames):
        following = _load(x, place, inside, t + 1, num_frames, frame, SUMS)
        mixed = of_previous * previous + of_this * this + of_next * following
        tl.store(y + t * frame + place, mixed.to(output.dtype.element_ty), mask=inside)
        previous = this
        this = following


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    clips,
    weight,
    gradient,
    of_clips,
    sums,
    num_frames,
    num_pixels,
    num_channels,
    SUMS: tl.constexpr,
    PIXELS_IN_TILE: tl.constexpr,
    CHANNELS_IN_TILE: tl.constexpr,
):
    channel, place, inside = _tile(num_pixels, num_channels, PIXELS_IN_TILE, CHANNELS_IN_TILE)
    of_previous = _tap(weight, channel, 0, num_channels, SUMS)
    of_this = _tap(weight, channel, 1, num_channels, SUMS)
    of_next = _tap(weight, channel, 2, num_channels, SUMS)

    frame = num_pixels * num_channels
    clip = tl.program_id(2).to(tl.int64) * num_frames * frame
    x, dy, dx = clips + clip, gradient + clip, of_clips + clip
    x_this = _load(x, place, inside, 0, num_frames, frame, SUMS)
    dy_this = _load(dy, place, inside, 0, num_frames, frame, SUMS)
    x_previous = tl.zeros_like(x_this)
    dy_previous = tl.zeros_like(x_this)
    sum_previous = tl.zeros_like(x_this)
    sum_this = tl.zeros_like(x_this)
    sum_next = tl.zeros_like(x_this)
    for t in range(num_frames):
        x_next = _load(x, place, inside, t + 1, num_frames, frame, SUMS)
        dy_next = _load(dy, place, inside, t + 1, num_frames, frame, SUMS)
        # Frame t is the next of t-1 and the previous of t+1: the transpose swaps the outer taps.
        mixed = of_next * dy_previous + of_this * dy_this + of_previous * dy_next
        tl.store(dx + t * frame + place, mixed.to(of_clips.dtype.element_ty), mask=inside)
        sum_previous += dy_this * x_previous
        sum_this += dy_this * x_this
        sum_next += dy_this * x_next
        x_previous = x_this
        x_this = x_next
        dy_previous = dy_this
        dy_this = dy_next

    row = tl.program_id(2).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    at = sums + row * 3 * num_channels + channel
    exists = channel < num_channels
    tl.store(at, tl.sum(sum_previous, axis=0), mask=exists)
    tl.store(at + num_channels, tl.sum(sum_this, axis=0), mask=exists)
    tl.store(at + 2 * num_channels, tl.sum(sum_next, axis=0), mask=exists)

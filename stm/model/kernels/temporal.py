"""The channel-wise temporal convolution (equation 1) in Triton, which reads and writes each frame once per pass.

A program computes a tile of pixels and channels of one clip. It goes through the T frames with three of them in
registers. Backward does the same with the gradient: the outer taps are swapped, and the gradient of the taps is the sum
of the products of each input frame with the three frames of the gradient in registers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from stm.model.kernels.operators import operator
from stm.model.kernels.tiles import keep_sum, tap, tile


@triton.jit
def _walk(  # type: ignore[no-untyped-def]
    frames,
    taps,
    output,
    inputs,
    sums,
    num_frames,
    height,
    width,
    num_channels,
    BACKWARD: tl.constexpr,
    SUMS: tl.constexpr,
    PIXELS_IN_TILE: tl.constexpr,
    CHANNELS_IN_TILE: tl.constexpr,
):
    _, channel, place, inside = tile(height * width, num_channels, PIXELS_IN_TILE, CHANNELS_IN_TILE)
    # In backward, the outer taps are swapped: frame t is the next frame of t-1 and the previous one of t+1.
    of_previous = tap(taps, channel, 2 if BACKWARD else 0, 3, num_channels, SUMS)
    of_this = tap(taps, channel, 1, 3, num_channels, SUMS)
    of_next = tap(taps, channel, 0 if BACKWARD else 2, 3, num_channels, SUMS)

    frame = height * width * num_channels
    clip = tl.program_id(0).to(tl.int64) * num_frames * frame  # all clips may pass 2^31 values
    read, write, read_input = frames + clip, output + clip, inputs + clip
    this = tl.load(read + place, mask=inside, other=0.0).to(SUMS)
    previous = tl.zeros_like(this)
    sum_previous = tl.zeros_like(this)
    sum_this = tl.zeros_like(this)
    sum_next = tl.zeros_like(this)
    for t in range(num_frames):
        read += frame
        end = tl.where(t + 1 < num_frames, frame, 0)  # nothing follows the last frame
        exists = inside & (place < end)
        following = tl.load(read + place, mask=exists, other=0.0).to(SUMS)
        value = of_previous * previous + of_this * this + of_next * following
        tl.store(write + place, value.to(output.dtype.element_ty), mask=inside)
        write += frame
        if BACKWARD:
            x = tl.load(read_input + place, mask=inside, other=0.0).to(SUMS)
            read_input += frame
            sum_previous += x * following
            sum_this += x * this
            sum_next += x * previous
        previous = this
        this = following
    if BACKWARD:
        keep_sum(sums, sum_previous, channel, 0, 3, num_channels)
        keep_sum(sums, sum_this, channel, 1, 3, num_channels)
        keep_sum(sums, sum_next, channel, 2, 3, num_channels)


channelwise_temporal_conv = operator("temporal_conv", _walk, num_taps=3, walks_time=True)
"""``stm.model.temporal.temporal_conv`` in the layout of ``split_time``.

Clips, float contiguous ``[N, T, H, W, C]``, and taps for frames t-1, t and t+1, float ``[C, 1, 3, 1]`` -> the shape of
the clips.
"""

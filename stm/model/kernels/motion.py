"""CMM's feature difference (equation 2) in Triton: padding, depthwise 3x3, subtraction and the zeros of step T.

All of it is one pass over memory. A program computes a tile of pixels and channels of one frame. It reads the nine
neighbours of each pixel in the next frame, eight of them from caches. Backward reads the previous frame instead, with
the taps reversed. The gradient of the taps is the sum of the products of these neighbours with the input.
"""

from __future__ import annotations

import triton
import triton.language as tl

from stm.model.kernels.operators import operator
from stm.model.kernels.tiles import keep_sum, tap, tile


@triton.jit
def _difference(  # type: ignore[no-untyped-def]
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
    pixel, channel, place, inside = tile(
        height * width, num_channels, PIXELS_IN_TILE, CHANNELS_IN_TILE
    )
    row, column = (pixel // width)[:, None], (pixel % width)[:, None]
    frame = height * width * num_channels
    at = tl.program_id(0).to(tl.int64) * frame  # all frames may pass 2^31 values
    t = tl.program_id(0) % num_frames

    # The last step is zero: its value and its gradient are ignored.
    counts = inside & (place < tl.where(t + 1 < num_frames, frame, 0))
    own = tl.load(frames + at + place, mask=counts, other=0.0).to(SUMS)
    if BACKWARD:
        other = frames + at - frame
        exists = inside & (place < tl.where(t > 0, frame, 0))
        x = tl.load(inputs + at + place, mask=inside, other=0.0).to(SUMS)
    else:
        other = frames + at + frame
        exists = counts
    convolved = tl.zeros_like(own)
    for number in tl.static_range(9):
        down = 1 - number // 3 if BACKWARD else number // 3 - 1
        right = 1 - number % 3 if BACKWARD else number % 3 - 1
        in_rows = (row + down >= 0) & (row + down < height)
        in_columns = (column + right >= 0) & (column + right < width)
        neighbour = tl.load(
            other + place + (down * width + right) * num_channels,
            mask=exists & in_rows & in_columns,
            other=0.0,
        ).to(SUMS)
        convolved += tap(taps, channel, number, 9, num_channels, SUMS) * neighbour
        if BACKWARD:
            keep_sum(sums, x * neighbour, channel, number, 9, num_channels)
    # `where` and not a product: the last step stays 0 even if a tap is not finite.
    value = tl.where(exists, convolved, 0.0) - own
    tl.store(output + at + place, value.to(output.dtype.element_ty), mask=inside)


feature_difference = operator("feature_difference", _difference, num_taps=9, walks_time=False)
"""``stm.model.cmm.feature_difference`` in the layout of ``split_time``.

Clips, float contiguous ``[N, T, H, W, C]``, and taps, float ``[C, 1, 3, 3]`` -> the shape of the clips.
"""

"""Functions of the Triton kernels that cut a frame into tiles and store a tile's part of the gradient of the taps.

A tile has some pixels and some channels of one frame. As in channels-last memory, channels are its fastest axis.
Offsets within a frame are int32, and offsets of frames within a batch are int64.
"""

from __future__ import annotations

import triton
import triton.language as tl

CHANNELS_IN_TILE = 64
VALUES_IN_TILE = 2048


def grid_of_tiles(num_programs: int, num_pixels: int, num_channels: int) -> tuple[int, int, int]:
    """The grid: programs, tiles of pixels, tiles of channels. Only the first axis may exceed 65,535."""
    size = tile_size(num_channels)
    return (
        num_programs,
        triton.cdiv(num_pixels, size["PIXELS_IN_TILE"]),
        triton.cdiv(num_channels, size["CHANNELS_IN_TILE"]),
    )


def tile_size(num_channels: int) -> dict[str, int]:
    """Constants of a kernel: numbers of pixels and channels of a tile, both powers of two."""
    channels_in_tile = min(triton.next_power_of_2(num_channels), CHANNELS_IN_TILE)
    return {
        "PIXELS_IN_TILE": VALUES_IN_TILE // channels_in_tile,
        "CHANNELS_IN_TILE": channels_in_tile,
    }


@triton.jit
def tile(num_pixels, num_channels, PIXELS_IN_TILE: tl.constexpr, CHANNELS_IN_TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the pixels and channels of this program, the offsets of its values in a frame, and which of them exist."""
    pixel = tl.program_id(1) * PIXELS_IN_TILE + tl.arange(0, PIXELS_IN_TILE)
    channel = tl.program_id(2) * CHANNELS_IN_TILE + tl.arange(0, CHANNELS_IN_TILE)
    inside = (pixel < num_pixels)[:, None] & (channel < num_channels)[None, :]
    return pixel, channel, pixel[:, None] * num_channels + channel[None, :], inside


@triton.jit
def tap(taps, channel, number, NUM_TAPS: tl.constexpr, num_channels, SUMS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return tap ``number`` of each channel, as a row that multiplies a tile."""
    values = tl.load(taps + NUM_TAPS * channel + number, mask=channel < num_channels, other=0.0)
    return values.to(SUMS)[None, :]


@triton.jit
def keep_sum(sums, product, channel, number, NUM_TAPS: tl.constexpr, num_channels):  # type: ignore[no-untyped-def]
    """Store the sum of ``product`` over the tile's pixels in this program's row of ``sums``, at tap ``number``."""
    row = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    at = sums + (row * NUM_TAPS + number) * num_channels + channel
    tl.store(at, tl.sum(product, axis=0), mask=channel < num_channels)

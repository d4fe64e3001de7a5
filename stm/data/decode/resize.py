"""Crop a box from a clip and resize it once, directly from source pixels."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
"""(left, top, width, height) in displayed source pixels."""

PixelBox = tuple[int, int, int, int]
"""(left, top, right, bottom) in whole pixels; right and bottom are not included."""


class BoxError(ValueError):
    """A box extends outside its frame, or has no area."""


def pixel_box(box: Box, width: int, height: int) -> PixelBox:
    """Round each edge of a box to the nearest whole pixel (halves up). At least one pixel remains.

    Because of rounding elsewhere, an edge may lie up to half a pixel outside the frame. It is then
    moved onto the frame's edge.

    Raises:
        BoxError: If the box extends further outside the frame, or has no area.
    """
    left, top, box_width, box_height = (float(value) for value in box)
    right, bottom = left + box_width, top + box_height
    if not (math.isfinite(left + top + right + bottom) and box_width > 0 and box_height > 0):
        raise BoxError(f"box {tuple(box)} has no area, or an edge that is not a finite number")
    if min(left, top) < -0.5 or right > width + 0.5 or bottom > height + 0.5:
        sides = "(left, top, width, height)"
        raise BoxError(
            f"box {tuple(box)} {sides} extends outside the frame of {width}x{height} pixels"
        )
    x0, x1 = _edges(left, right, width)
    y0, y1 = _edges(top, bottom, height)
    return x0, y0, x1, y1


def _edges(low: float, high: float, length: int) -> tuple[int, int]:
    start = min(max(math.floor(low + 0.5), 0), length - 1)
    stop = min(max(math.floor(high + 0.5), start + 1), length)
    return start, stop


def resize_clip(clip: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize a clip to a square with antialiased bilinear interpolation, in uint8 throughout.

    Args:
        clip: uint8 [K, height, width, 3].
        size: Side of the result in pixels.

    Returns:
        uint8 [K, size, size, 3]. A clip that already has this size is returned unchanged.
    """
    if clip.shape[1:3] == (size, size):
        return clip
    import torch
    from torch.nn.functional import interpolate

    # The fast kernel of torch needs channels-last uint8; the NCHW tensor is only a view of that.
    clip_KCHW = torch.from_numpy(np.ascontiguousarray(clip)).permute(0, 3, 1, 2)
    resized = interpolate(clip_KCHW, (size, size), mode="bilinear", antialias=True)
    return np.ascontiguousarray(resized.permute(0, 2, 3, 1).numpy())

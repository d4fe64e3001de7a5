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
    """A box that leaves its frame, or has no area."""


def pixel_box(box: Box, width: int, height: int) -> PixelBox:
    """Round a box to whole pixels: each edge to the nearest (halves up), at least one pixel across.

    An edge may lie up to half a pixel outside the frame, as rounding elsewhere can leave it; it is
    moved onto the frame's edge.

    Raises:
        BoxError: If the box lies further outside the frame, or has no area.
    """
    left, top, box_width, box_height = (float(value) for value in box)
    right, bottom = left + box_width, top + box_height
    if not (math.isfinite(left + top + right + bottom) and box_width > 0 and box_height > 0):
        raise BoxError(f"box {tuple(box)} has no area, or an edge that is no number")
    if min(left, top) < -0.5 or right > width + 0.5 or bottom > height + 0.5:
        sides = "(left, top, width, height)"
        raise BoxError(f"box {tuple(box)} {sides} leaves the frame of {width}x{height} pixels")
    x0, x1 = _edges(left, right, width)
    y0, y1 = _edges(top, bottom, height)
    return x0, y0, x1, y1


def _edges(low: float, high: float, length: int) -> tuple[int, int]:
    start = min(max(math.floor(low + 0.5), 0), length - 1)
    stop = min(max(math.floor(high + 0.5), start + 1), length)
    return start, stop


def resize_clip(clip: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Antialiased bilinear resize of a clip to a square, in uint8 throughout.

    Args:
        clip: uint8 [K, height, width, 3].
        size: Side of the result in pixels.

    Returns:
        uint8 [K, size, size, 3]. A clip that has the size already is returned as it is.
    """
    if clip.shape[1:3] == (size, size):
        return clip
    import torch
    from torch.nn.functional import interpolate

    # Channels-last uint8 is the layout torch has its fast kernel for; as NCHW it is only a view.
    clip_KCHW = torch.from_numpy(np.ascontiguousarray(clip)).permute(0, 3, 1, 2)
    resized = interpolate(clip_KCHW, (size, size), mode="bilinear", antialias=True)
    return np.ascontiguousarray(resized.permute(0, 2, 3, 1).numpy())

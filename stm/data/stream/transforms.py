"""Crops and flips of a clip, as boxes in the pixels of the source; nothing here touches a pixel.

The TSN practice resizes a video to short side 256, crops, and resizes the crop to 224. Both resizes and the crop are
one affine map, so a crop is a box (left, top, width, height) in source pixels and the video is resampled once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Box = tuple[float, float, float, float]
"""(left, top, width, height) in displayed source pixels."""

TEST_CROP = 224 / 256
"""Side of the centre crop, as a share of the short side: 224 of 256 px."""


class View(NamedTuple):
    """Which part of the picture a clip shows."""

    box: Box
    flip: bool


def random_view(
    width: int, height: int, scales: Sequence[float], flip: bool, generator: np.random.Generator
) -> View:
    """Corner crop with scale jitter, and a mirror image half the time where ``flip`` allows it.

    Both sides of the crop are drawn from ``scales`` of the short side, at most one step of the list apart, as in
    TSN; it sits in a corner or in the centre. Consumes four draws of ``generator`` whatever the settings, so that
    switching one setting leaves the other draws as they were.
    """
    short_side = min(width, height)
    ordered = sorted(scales, reverse=True)
    pairs = [
        (across, down)
        for i, across in enumerate(ordered)
        for j, down in enumerate(ordered)
        if abs(i - j) <= 1
    ]
    which_pair, which_place, mirror, _reserved = generator.random(4)
    across, down = pairs[int(which_pair * len(pairs))]
    crop_width, crop_height = short_side * across, short_side * down
    places = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.5, 0.5))
    x, y = places[int(which_place * len(places))]
    box = ((width - crop_width) * x, (height - crop_height) * y, crop_width, crop_height)
    return View(box, flip and mirror < 0.5)


def centre_box(width: int, height: int, share: float = TEST_CROP) -> Box:
    """The centre square with a side of ``share`` of the short side."""
    side = min(width, height) * share
    return ((width - side) / 2, (height - side) / 2, side, side)


def long_side_boxes(width: int, height: int, num_crops: int = 3) -> list[Box]:
    """``num_crops`` squares as large as the short side, spread evenly along the long one."""
    side = float(min(width, height))
    places = np.linspace(0, 1, num_crops) if num_crops > 1 else np.array([0.5])
    return [
        ((width - side) * place, (height - side) * place, side, side) for place in places.tolist()
    ]

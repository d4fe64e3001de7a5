"""Crops and flips of a clip, as boxes in source pixels; nothing here touches a pixel.

The TSN practice resizes a video to short side 256, crops, and resizes the crop to 224. Both resizes and the crop are
one affine map, so a crop is a box (left, top, width, height) in source pixels and the video is resampled once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Box = tuple[float, float, float, float]
"""(left, top, width, height) in displayed source pixels."""

TEST_CROP = 224 / 256
"""Side of the centre crop, as a share of the short side: 224 of 256 px."""


class View(NamedTuple):
    """The part of the picture that a clip shows."""

    box: Box
    flip: bool


PLACES = (
    *((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.5, 0.5)),
    *((0.0, 0.5), (1.0, 0.5), (0.5, 0.0), (0.5, 1.0)),
    *((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)),
)
"""Crop positions, as shares of the free space: corners and centre; middles of the sides; half-way to the corners."""


def random_view(
    width: int,
    height: int,
    scales: Sequence[float],
    flip: bool,
    generator: np.random.Generator,
    num_places: int = 5,
) -> View:
    """Corner crop with scale jitter, mirrored half the time if ``flip`` allows it.

    Both sides of the crop are drawn from ``scales`` of the short side, at most one step of the list apart, as in
    TSN. The crop is at one of the first ``num_places`` of `PLACES`. Always consumes four draws of ``generator``, so
    changing one setting does not change the other draws.
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
    x, y = PLACES[int(which_place * num_places)]
    box = ((width - crop_width) * x, (height - crop_height) * y, crop_width, crop_height)
    return View(box, flip and mirror < 0.5)


_TRIES = 10


def random_resized_box(
    width: int,
    height: int,
    areas: tuple[float, float],
    ratios: tuple[float, float],
    generator: np.random.Generator,
) -> Box:
    """A random box. Its share of the picture's area is drawn from ``areas``, its aspect from ``ratios`` on a log
    scale. After ten boxes that leave the picture, it is the largest centred box with an allowed aspect.
    """
    for area, ratio, x, y in generator.random((_TRIES, 4)).tolist():
        share = areas[0] + (areas[1] - areas[0]) * area
        across, down = sides_of(share * width * height, ratios, ratio)
        if across <= width and down <= height:
            return ((width - across) * x, (height - down) * y, across, down)
    across = min(width, height * ratios[1])
    down = min(height, width / ratios[0])
    return ((width - across) / 2, (height - down) / 2, across, down)


def sides_of(area: float, ratios: tuple[float, float], place: float) -> tuple[float, float]:
    """(width, height) of a box whose aspect lies at ``place`` between ``ratios`` on a log scale."""
    ratio = ratios[0] * (ratios[1] / ratios[0]) ** place
    return math.sqrt(area * ratio), math.sqrt(area / ratio)


def centre_box(width: int, height: int, share: float = TEST_CROP) -> Box:
    """The centre square whose side is ``share`` of the short side."""
    side = min(width, height) * share
    return ((width - side) / 2, (height - side) / 2, side, side)


def long_side_boxes(width: int, height: int, num_crops: int = 3) -> list[Box]:
    """``num_crops`` squares as large as the short side, spread evenly along the long one."""
    side = float(min(width, height))
    places = np.linspace(0, 1, num_crops) if num_crops > 1 else np.array([0.5])
    return [
        ((width - side) * place, (height - side) * place, side, side) for place in places.tolist()
    ]

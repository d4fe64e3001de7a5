"""A decoded frame to RGB as displayed: FFmpeg's converter, unscaled, then the display matrix."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray


class RgbConverter:
    """Turns decoded frames into uint8 RGB arrays; one for each open video.

    Unscaled conversion takes FFmpeg's SIMD path. 10-bit, full-range, grey and other samplings, and
    the frame's own colour matrix, are handled there, as ``ffmpeg -pix_fmt rgb24`` does.
    """

    def __init__(self, width: int, height: int) -> None:
        self._size = (width, height)
        self._reformatter = VideoReformatter()

    def __call__(self, frame: Any) -> NDArray[np.uint8]:
        """uint8 [height, width, 3] as displayed: a view, valid while the returned array lives."""
        if not all(self._size):  # a damaged header states none
            self._size = (frame.width, frame.height)
        width, height = self._size
        rgb = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="rgb24",
            interpolation=Interpolation.BICUBIC,  # acts only if the stream changes size midway
            threads=1,
        )
        plane = rgb.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8, count=height * plane.line_size)
        pixels = rows.reshape(height, plane.line_size)[:, : 3 * width].reshape(height, width, 3)
        return _as_displayed(pixels, display_matrix(frame))


def display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """Signs (a, b, c, d) of the display matrix: x' = a x + c y, y' = b x + d y; identity if none.

    Only quarter turns and mirrorings are kept: a slanted matrix is left alone.
    """
    for side_data in frame.side_data:
        if side_data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = struct.unpack("=5i", bytes(side_data)[:20])
            if (b == c == 0 and a and d) or (a == d == 0 and b and c):
                return _sign(a), _sign(b), _sign(c), _sign(d)
    return 1, 0, 0, 1


def rotation_degrees(matrix: tuple[int, int, int, int]) -> int:
    """The counter-clockwise turn in degrees that a display matrix asks for (mirrorings apart)."""
    a, b, _, _ = matrix
    return {(1, 0): 0, (0, -1): 90, (-1, 0): 180, (0, 1): 270}[a, b]


def _as_displayed(
    pixels: NDArray[np.uint8], matrix: tuple[int, int, int, int]
) -> NDArray[np.uint8]:
    a, b, c, d = matrix
    if a == 0:  # rows become columns
        pixels = pixels.swapaxes(0, 1)
    if (a or c) < 0:
        pixels = pixels[:, ::-1]
    if (d or b) < 0:
        pixels = pixels[::-1]
    return pixels


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)

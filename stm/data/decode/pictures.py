"""A decoded frame to RGB as displayed: FFmpeg's converter, unscaled, then the display matrix."""

from __future__ import annotations

import errno
import struct
from typing import Any

import av.error
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from stm.data.decode.video import VideoError


Matrix = tuple[int, int, int, int]
"""Signs (a, b, c, d) of a display matrix: x' = a x + c y, y' = b x + d y."""

UPRIGHT: Matrix = (1, 0, 0, 1)


def _name_unknown_type(kind: Any, value: object) -> Any:
    member = object.__new__(kind)
    member._name_, member._value_ = f"UNKNOWN_{value}", value
    return member


# PyAV 18 raises ValueError for a frame with side data that it has no name for, such as EXIF.
SideDataType._missing_ = classmethod(_name_unknown_type)  # type: ignore[assignment]


class RgbConverter:
    """Turns decoded frames into uint8 RGB arrays; one for each open video.

    Unscaled conversion takes FFmpeg's SIMD path. 10-bit, full-range, grey and other samplings, and
    the frame's own colour matrix, are handled there (docs/pixels.md).

    Args:
        name: Of the video, for errors.
        width: Coded size in pixels; frames of another size are scaled to it.
        height: Likewise.
        matrix: How all frames are turned; None: as the first one says.
    """

    def __init__(self, name: str, width: int, height: int, matrix: Matrix | None = None) -> None:
        self._name = name
        self._size = (width, height)
        self._matrix = matrix
        self._turns_by_frame = matrix is None
        self._reformatter = VideoReformatter()

    def __call__(self, frame: Any) -> NDArray[np.uint8]:
        """uint8 [height, width, 3] as displayed: a view, valid while the returned array lives.

        Raises:
            VideoError: ``unreadable``, where FFmpeg has no conversion from the frame's format or
                colour matrix, or where it is turned otherwise than the first.
        """
        if not all(self._size):  # a damaged header states none
            self._size = (frame.width, frame.height)
        if self._turns_by_frame:
            matrix = display_matrix(frame)
            if self._matrix not in (None, matrix):
                detail = "its frames are turned in different ways"
                raise VideoError(self._name, "unreadable", detail)
            self._matrix = matrix
        width, height = self._size
        try:
            rgb = self._reformatter.reformat(
                frame,
                width=width,
                height=height,
                format="rgb24",
                interpolation=Interpolation.BICUBIC,  # acts only if the stream changes size midway
                threads=1,
            )
        except av.error.OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            what = f"{frame.format.name} pixels with colour matrix {int(frame.colorspace)}"
            detail = f"FFmpeg has no conversion to RGB from {what}"
            raise VideoError(self._name, "unreadable", detail) from error
        plane = rgb.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8, count=height * plane.line_size)
        pixels = rows.reshape(height, plane.line_size)[:, : 3 * width].reshape(height, width, 3)
        return _as_displayed(pixels, self._matrix or UPRIGHT)


def display_matrix(frame: Any) -> Matrix:
    """The display matrix that a frame carries; identity if it has none.

    Only quarter turns and mirrorings are kept: a slanted matrix is left alone.
    """
    for side_data in frame.side_data:
        if side_data.type is SideDataType.DISPLAYMATRIX:
            a, b, _, c, d = struct.unpack("=5i", bytes(side_data)[:20])
            if (b == c == 0 and a and d) or (a == d == 0 and b and c):
                return _sign(a), _sign(b), _sign(c), _sign(d)
    return UPRIGHT


def rotation_degrees(matrix: Matrix) -> int:
    """The counter-clockwise turn in degrees that a display matrix asks for (mirrorings apart)."""
    a, b, _, _ = matrix
    return {(1, 0): 0, (0, -1): 90, (-1, 0): 180, (0, 1): 270}[a, b]


def mirrors(matrix: Matrix) -> bool:
    """Whether a display matrix shows the picture as in a mirror."""
    a, b, c, d = matrix
    return a * d - b * c < 0


def _as_displayed(pixels: NDArray[np.uint8], matrix: Matrix) -> NDArray[np.uint8]:
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

"""Convert a decoded frame to RGB with FFmpeg, and apply its display matrix."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import Any

import av.error
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from stm.data.video import VideoError

Matrix = tuple[int, int, int, int]
"""Signs (a, b, c, d) of a display matrix: x' = a x + c y, y' = b x + d y."""

UPRIGHT: Matrix = (1, 0, 0, 1)


def _name_unknown_type(kind: Any, value: object) -> Any:
    member = object.__new__(kind)
    member._name_, member._value_ = f"UNKNOWN_{value}", value
    return member


# PyAV 18 raises ValueError for a frame with side data of a type that it does not know, such as EXIF.
SideDataType._missing_ = classmethod(_name_unknown_type)  # type: ignore[assignment]


class RgbConverter:
    """Converts decoded frames to uint8 RGB arrays, bit-exactly as ``ffmpeg -pix_fmt rgb24`` does.

    FFmpeg handles all pixel formats, such as 10-bit, full-range and grey, and the frame's own colour
    matrix (docs/pixels.md). One converter serves one open video.

    Args:
        name: Name of the video, for errors.
        width: Coded width in pixels. Frames of another size are scaled.
        height: Coded height in pixels.
        matrix: Orientation of all frames; None for that of the first frame.
    """

    def __init__(self, name: str, width: int, height: int, matrix: Matrix | None = None) -> None:
        self._name = name
        self._size = (width, height)
        self._matrix = matrix
        self._turns_by_frame = matrix is None
        self._reformatter = VideoReformatter()
        self._graph: Graph | None = None
        self._graph_takes: tuple[Any, ...] | None = None

    def __call__(self, frame: Any) -> NDArray[np.uint8]:
        """Return uint8 [height, width, 3], RGB as displayed: a view of FFmpeg's memory.

        Raises:
            VideoError: ``unreadable`` if FFmpeg cannot convert the frame's pixel format or colour
                matrix, or if the frame's orientation differs from that of the first.
        """
        if not all(self._size):  # a damaged header has no size
            self._size = (frame.width, frame.height)
        if self._turns_by_frame:
            matrix = display_matrix(frame)
            if self._matrix not in (None, matrix):
                detail = "its frames have different orientations"
                raise VideoError(self._name, "unreadable", detail)
            self._matrix = matrix
        try:
            rgb = self._convert(frame)
        except av.error.MemoryError:
            raise
        except av.error.FFmpegError as error:
            what = f"{frame.format.name} pixels with colour matrix {int(frame.colorspace)}"
            detail = f"FFmpeg cannot convert {what} to RGB ({error.strerror})"
            raise VideoError(self._name, "unreadable", detail) from error
        width, height = self._size
        plane = rgb.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8, count=height * plane.line_size)
        pixels = rows.reshape(height, plane.line_size)[:, : 3 * width].reshape(height, width, 3)
        return _as_displayed(pixels, self._matrix or UPRIGHT)

    def _convert(self, frame: Any) -> Any:
        """The frame as rgb24, in the converter's size."""
        width, height = self._size
        is_plain = (
            frame.format.name in _REPEATS_CHROMA
            and (frame.width, frame.height) == (width, height)
            and width % 2 == height % 2 == 0
            and not frame.interlaced_frame
        )
        if is_plain:  # FFmpeg's SIMD path, without the cost of building a graph
            return self._reformatter.reformat(frame, width, height, "rgb24", threads=1)
        colours = (int(frame.colorspace), int(frame.color_range))
        takes = (frame.width, frame.height, frame.format.name, *colours)
        if self._graph is None or takes != self._graph_takes:
            self._graph, self._graph_takes = _scaling_graph(frame, width, height), takes
        self._graph.push(frame)
        return self._graph.pull()


# Formats whose chroma FFmpeg repeats instead of interpolating: chroma siting does not matter.
_REPEATS_CHROMA = frozenset(["yuv420p", "yuvj420p"])


def _scaling_graph(frame: Any, width: int, height: int) -> Graph:
    """The filter graph that the ``ffmpeg`` command uses before an rgb24 output.

    Its pixels differ from those of PyAV's ``reformat`` if chroma is interpolated: the graph treats the
    fields of interlaced frames separately and uses the stream's chroma siting.
    """
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
    )
    scale = graph.add("scale", f"{width}:{height}:flags=bicubic")
    rgb, sink = graph.add("format", "rgb24"), graph.add("buffersink")
    source.link_to(scale)
    scale.link_to(rgb)
    rgb.link_to(sink)
    graph.configure()
    return graph


def display_matrix(frame: Any) -> Matrix:
    """Return the display matrix of a frame; ``UPRIGHT`` if it has none.

    Only quarter turns and mirrorings are supported; any other matrix is ignored.
    """
    for side_data in frame.side_data:
        if side_data.type is SideDataType.DISPLAYMATRIX:
            a, b, _, c, d = struct.unpack("=5i", bytes(side_data)[:20])
            if (b == c == 0 and a and d) or (a == d == 0 and b and c):
                return _sign(a), _sign(b), _sign(c), _sign(d)
    return UPRIGHT


def rotation_degrees(matrix: Matrix) -> int:
    """Return the counter-clockwise turn of a display matrix in degrees, without its mirroring."""
    a, b, _, _ = matrix
    return {(1, 0): 0, (0, -1): 90, (-1, 0): 180, (0, 1): 270}[a, b]


def mirrors(matrix: Matrix) -> bool:
    """Return whether a display matrix mirrors the picture."""
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

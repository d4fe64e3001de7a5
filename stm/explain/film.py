"""Write a film of a video as H.264: its frames and the maps of each frame, at the video's frame rate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from stm.errors import UserError
from stm.explain.colours import Scale, cells
from stm.explain.picture import INK, MUTED, TEXT, number

_PANEL, _GAP, _MARGIN, _LINE = 224, 8, 16, 18  # px
_HEAD = 52
_DPI = 100


@dataclass(frozen=True)
class Layer:
    """The maps of one kind, for all frames of the film."""

    name: str
    block: str
    maps: np.ndarray
    """float32 [F, h, w]."""
    scale: Scale


def write_film(
    path: Path,
    frames: np.ndarray,
    layers: Sequence[Layer],
    evidence: Layer,
    *,
    fps: float,
    title: str,
    subtitle: str,
) -> Path:
    """Write a film with one picture for each frame, and return its path.

    The left column shows the frame, and below it the class evidence over the frame. Each layer has a column that shows
    the map over the frame, and below it the cells of the map.

    Args:
        path: The mp4 file to write.
        frames: uint8 [F, S, S, 3].
        layers: The layers, one for each further column.
        evidence: The class evidence.
        fps: Frames per second.
        title: One line.
        subtitle: One line.

    Raises:
        UserError: The file cannot be written.
    """
    import av
    import av.error
    from av.video.reformatter import ColorRange, Colorspace

    from stm.data.prepare.encoding import Mp4Writer, OutputFailed

    page = _page(layers, evidence, title, subtitle)
    rate = Fraction(fps).limit_denominator(1000)
    writer = Mp4Writer(str(path), (page.shape[1], page.shape[0]), rate, gop=24)
    try:
        writer.open(int(Colorspace.ITU709), None, None)
        for k, picture in enumerate(_pictures(page, frames, layers, evidence)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format=writer.pix_fmt,
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=writer.color_range or ColorRange.MPEG,
            )
            frame.pts, frame.time_base = k, 1 / rate
            writer.write(frame)
        writer.finish()
    except (OutputFailed, OSError, av.error.FFmpegError) as error:
        writer.abandon()
        raise UserError(f"{path} cannot be written: {error}") from error
    return path


def _pictures(
    page: np.ndarray, frames: np.ndarray, layers: Sequence[Layer], evidence: Layer
) -> Iterator[np.ndarray]:
    """Yield the picture of each frame, uint8 [H, W, 3]: the page with its panels filled."""
    from stm.data.decode.resize import resize_clip

    width = page.shape[1] - 2 * _MARGIN
    for k, frame in enumerate(frames):
        picture = page.copy()
        large = resize_clip(frame[None], _PANEL)
        _place(picture, 0, 0, large[0])
        _place(picture, 1, 0, evidence.scale.lay_over(large, evidence.maps[k : k + 1])[0])
        for column, layer in enumerate(layers, 1):
            one = layer.maps[k : k + 1]
            _place(picture, 0, column, layer.scale.lay_over(large, one)[0])
            _place(picture, 1, column, cells(layer.scale.paint(one), _PANEL)[0])
        elapsed = round(width * (k + 1) / len(frames))
        picture[-_MARGIN // 2 - 3 : -_MARGIN // 2, _MARGIN : _MARGIN + elapsed] = (95, 99, 104)
        yield picture


def _corner(row: int, column: int) -> tuple[int, int]:
    """Return the top and left of a panel in px, below its line of text."""
    return _HEAD + _LINE + row * (_PANEL + _LINE + _GAP), _MARGIN + column * (_PANEL + _GAP)


def _place(picture: np.ndarray, row: int, column: int, panel: np.ndarray) -> None:
    top, left = _corner(row, column)
    picture[top : top + _PANEL, left : left + _PANEL] = panel


def _page(layers: Sequence[Layer], evidence: Layer, title: str, subtitle: str) -> np.ndarray:
    """Draw what is the same in all pictures: uint8 [H, W, 3], with even sides."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bottom, right = _corner(2, len(layers) + 1)
    height = (bottom - _LINE + _MARGIN) // 2 * 2
    width = (right - _GAP + _MARGIN) // 2 * 2
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)

    def text(x: float, y: float, words: str, size: float, **style: Any) -> None:
        figure.text(x / width, 1 - y / height, words, fontsize=size, **{**TEXT, **style})

    text(_MARGIN, 24, title, 12, weight="bold")
    text(_MARGIN, 43, subtitle, 8.5, color=MUTED)
    heads = [("frame", _under(evidence))]
    heads += [(f"{layer.name}, over the frame", _under(layer)) for layer in layers]
    for column, (over, under) in enumerate(heads):
        for row, words in enumerate((over, under)):
            top, left = _corner(row, column)
            text(left, top - 5, words, 8, color=INK if not row else MUTED)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[:height, :width, :3])


def _under(layer: Layer) -> str:
    return f"{layer.block}, {number(layer.scale.low)} to {number(layer.scale.high)}"

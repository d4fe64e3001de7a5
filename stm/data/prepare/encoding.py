"""Write the pictures of a prepared video: H.264 in an mp4, or JPEG images in a shard of one row.

Both expect scaled pictures in `pix_fmt` and `color_range`. The output is complete once `finish`
has returned.
"""

from __future__ import annotations

import contextlib
from fractions import Fraction
from typing import Any, Protocol

import av
import av.error
from av.video.reformatter import ColorRange, Colorspace

from stm.data.decode import VideoError
from stm.data.shards import MOST_ROW_BYTES, write_shard

_X264 = {"bf": "2", "tune": "fastdecode", "crf": "23", "a53cc": "0"}  # no captions
# Quantiser, 2 to 31. On real clips it gives 36.8 dB against the source; crf 23 gives 39 dB with a key
# frame every 16 frames and 35.5 dB with only key frames.
_JPEG = {"qmin": "8", "qmax": "8"}


class OutputFailed(Exception):
    """The result cannot be written, for a reason unrelated to the video."""


class Writer(Protocol):
    """Writes the pictures of one video in order."""

    pix_fmt: str
    color_range: ColorRange
    colorspace: Colorspace | None
    """Colour matrix that pictures must have; None allows any, because the file records it."""

    def open(self, colorspace: int, primaries: int | None, transfer: int | None) -> None: ...
    def write(self, frame: Any) -> None: ...
    def finish(self) -> None: ...
    def abandon(self) -> None: ...


class Mp4Writer:
    """H.264 in an mp4 with its index at the front."""

    pix_fmt = "yuv420p"
    color_range = ColorRange.MPEG
    colorspace: Colorspace | None = None

    def __init__(self, target: str, size: tuple[int, int], rate: Fraction, gop: int) -> None:
        self._target, self._size, self._rate = target, size, rate
        self._options = {**_X264, "g": str(gop)}
        self._container: Any = None
        self._stream: Any = None

    def open(self, colorspace: int, primaries: int | None, transfer: int | None) -> None:
        try:
            with open(self._target, "wb"):  # PyAV opens it only when it writes packets
                pass
        except OSError as error:
            raise OutputFailed(f"{self._target}: {error.strerror}") from error
        self._container = av.open(
            self._target, "w", format="mp4", container_options={"movflags": "+faststart"}
        )
        self._stream = self._container.add_stream("libx264", self._rate, self._options)
        self._stream.width, self._stream.height = self._size
        self._stream.pix_fmt = self.pix_fmt
        context = self._stream.codec_context
        context.thread_count = 1
        context.color_range = self.color_range
        context.colorspace = colorspace
        if primaries is not None:
            context.color_primaries, context.color_trc = primaries, transfer

    def write(self, frame: Any) -> None:
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def abandon(self) -> None:
        if self._container is not None:
            with contextlib.suppress(av.error.FFmpegError):  # the first error is the one to report
                self._container.close()


class JpegWriter:
    """JPEG images, kept in memory until the last one."""

    pix_fmt = "yuvj420p"
    color_range = ColorRange.JPEG
    colorspace: Colorspace | None = Colorspace.ITU601  # JFIF allows no other

    def __init__(self, source: str, target: str, size: tuple[int, int]) -> None:
        self._source, self._target, self._size = source, target, size
        self._encoder: Any = None
        self._images: list[bytes] = []

    def open(self, colorspace: int, primaries: int | None, transfer: int | None) -> None:
        del colorspace, primaries, transfer
        self._encoder = av.CodecContext.create("mjpeg", "w")
        self._encoder.width, self._encoder.height = self._size
        self._encoder.pix_fmt = self.pix_fmt
        self._encoder.time_base = Fraction(1, 25)
        self._encoder.thread_count = 1
        self._encoder.options = dict(_JPEG)

    def write(self, frame: Any) -> None:
        frame.time_base = self._encoder.time_base
        self._images += [bytes(packet) for packet in self._encoder.encode(frame)]

    def finish(self) -> None:
        self._images += [bytes(packet) for packet in self._encoder.encode(None)]
        write_images(self._source, self._target, self._images)

    def abandon(self) -> None:
        self._images.clear()


def write_images(source: str, target: str, images: list[bytes]) -> int:
    """Write images as a shard of one row; returns their bytes.

    Raises VideoError if they are too large for a row, OutputFailed if the shard cannot be written.
    """
    num_bytes = sum(map(len, images))
    if num_bytes > MOST_ROW_BYTES:
        raise VideoError(source, "too_large", f"{num_bytes} bytes of images")
    try:
        write_shard(target, [("", images)])
    except OSError as error:
        raise OutputFailed(f"{target}: {error.strerror}") from error
    return num_bytes

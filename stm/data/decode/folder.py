"""Folders of frame images, one file a frame, as Something-Something and Jester are published."""

from __future__ import annotations

import os
import platform
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from stm.data.decode.pictures import RgbConverter
from stm.data.decode.video import VideoError, VideoInfo, label
from stm.data.shards import is_shard_path, read_images, read_some_images

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

# By their first bytes, whatever the file is called.
_DECODER_OF_MAGIC = {b"\xff\xd8": "mjpeg", b"\x89P": "png", b"RI": "webp", b"BM": "bmp"}

# JPEG leaves the inverse DCT to the decoder. This one is as near to the exact transform as FFmpeg's own choice (mean
# squared distance 0.0057 and 0.0058 on real frames; they differ by at most 1, in 0.8 % of samples), and an image takes
# a sixth less time. Its fast form is for this processor family alone.
_IDCT = {"idct": "xvid"} if platform.machine() in ("x86_64", "AMD64") else {}


def list_frames(folder: str | os.PathLike[str]) -> list[str] | list[bytes]:
    """Paths of the folder's images in frame order: by name, numbers by value (2.jpg before 10.jpg).

    For a row of a shard its images themselves.

    Raises:
        VideoError: ``empty``, if there is no image; ``permission_denied``.
    """
    if is_shard_path(folder):
        return read_images(os.fspath(folder))
    try:
        names = os.listdir(folder)
    except PermissionError as error:
        raise VideoError(label(folder), "permission_denied", "this user may not list it") from error
    names = [n for n in names if n.lower().endswith(_IMAGE_SUFFIXES) and not n.startswith(".")]
    if not names:
        raise VideoError(label(folder), "empty", "the folder holds no image")
    names.sort(key=_natural)
    return [os.path.join(folder, name) for name in names]


def probe(folder: str | os.PathLike[str]) -> VideoInfo:
    """The facts of a frame folder: its images counted, the first one decoded.

    Raises:
        VideoError: If there is no image, or the first cannot be read.
    """
    images, number = _some_frames(folder, [0])
    height, width, _ = _image_reader()(images[0]).shape
    return VideoInfo(
        num_frames=number,
        fps=0.0,
        width=width,
        height=height,
        codec="jpeg-folder",
        container="folder",
        keyframe_interval=1,
        rotation=0,
        guard="a folder of frames",
    )


def read(folder: str | os.PathLike[str], wanted: list[int], collector: Any) -> Any:
    """Fill ``collector`` with the wanted frames (distinct, ascending) and return it.

    Raises:
        VideoError: ``bad_index``, or ``unreadable`` with the image's name.
    """
    images, number = _some_frames(folder, wanted)
    if wanted[-1] >= number:
        raise VideoError(
            label(folder), "bad_index", f"frame {wanted[-1]} of a folder of {number} frames"
        )
    read_image = _image_reader()
    for slot, k in enumerate(wanted):
        try:
            collector.put(slot, read_image(images[k]))
        except VideoError as error:
            if isinstance(images[k], bytes):  # it has no name of its own
                raise VideoError(
                    label(folder), error.reason, f"frame {k}: {error.detail}"
                ) from error
            raise
    return collector


def _some_frames(
    folder: str | os.PathLike[str], wanted: list[int]
) -> tuple[Mapping[int, str | bytes], int]:
    """At least the wanted images, as far as there are such, and how many there are in all."""
    if is_shard_path(folder):
        return read_some_images(os.fspath(folder), wanted)
    paths = list_frames(folder)
    return dict(enumerate(paths)), len(paths)


_kept = threading.local()


def _image_reader() -> _ImageReader:
    """This thread's, since opening decoder and converter costs a tenth of a clip."""
    reader: _ImageReader | None = getattr(_kept, "reader", None)
    if reader is None:
        reader = _kept.reader = _ImageReader()
    return reader


class _ImageReader:
    """Image file, or its bytes -> uint8 [height, width, 3] RGB."""

    _MOST_SIZES = 16

    def __init__(self) -> None:
        self._decode = ImageDecoder()
        self._converters: dict[tuple[int, int], RgbConverter] = {}

    def __call__(self, image: str | bytes) -> NDArray[np.uint8]:
        try:
            frame = self._decode(image)
        except VideoError:
            self._decode = ImageDecoder()  # what a damaged image has left behind meets no other
            raise
        size = (frame.width, frame.height)
        converter = self._converters.get(size)
        if converter is None:
            if len(self._converters) == self._MOST_SIZES:
                self._converters.clear()
            converter = self._converters[size] = RgbConverter(*size)
        return converter(frame)


class ImageDecoder:
    """Image file, or its bytes -> `av.VideoFrame`, with FFmpeg's decoders.

    They are there wherever PyAV is, as fast as Pillow for this, and stricter: told to, they refuse
    a damaged JPEG that Pillow and a player would show with grey or shifted blocks.

    Raises VideoError ``unreadable`` or ``permission_denied``.
    """

    def __init__(self) -> None:
        self._contexts: dict[str, Any] = {}

    def __call__(self, image: str | bytes) -> Any:
        path = label(image)
        try:
            data = image if isinstance(image, bytes) else Path(image).read_bytes()
        except OSError as error:
            reason = "permission_denied" if isinstance(error, PermissionError) else "unreadable"
            raise VideoError(path, reason, str(error.strerror)) from error
        if not data:
            raise VideoError(path, "unreadable", "an image of zero bytes")
        codec = _DECODER_OF_MAGIC.get(data[:2])
        if codec is None:
            raise VideoError(path, "unreadable", "no JPEG, PNG, WebP or BMP image")
        try:
            context = self._contexts.get(codec) or self._open(codec)
            frames = context.decode(av.Packet(data)) or context.decode(None)
        except av.error.FFmpegError as error:
            raise VideoError(path, "unreadable", f"damaged image: {error.strerror}") from error
        if not frames:
            raise VideoError(path, "unreadable", "damaged image: nothing decodes")
        return frames[0]

    def _open(self, codec: str) -> Any:
        context: Any = av.CodecContext.create(codec, "r")
        context.thread_count = 1
        context.options = {"err_detect": "explode", **_IDCT}
        self._contexts[codec] = context
        return context


def _natural(name: str) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]

"""Read frames of videos: right first, then fast, and never a wrong frame without a word.

    from stm.data.decode import probe, read_clip
    info = probe("clip.mp4")
    clip = read_clip("clip.mp4", [0, 8, 16, 24], (40, 0, 240, 240), 224)  # uint8 [4, 224, 224, 3]

A source is a local path, a folder of frame images, an fsspec URL, or the bytes of a video file.

Decoders:
    packets     decode only the packets that wanted frames need; in sequence wherever that is unsure
    sequential  decode from the start, whatever is wanted
    decord      decord for the files that it can be trusted with, ``packets`` for the others
    auto        the fastest that is always right: ``packets``

A frame that damage has taken or reached, by what PyAV's decoder reports, is an error and never a
repeated or patched picture. Not all damage is reported: some flipped bits still make valid syntax, and
the HEVC and VP9 decoders reported none of it when tried. decord reports nothing: of 106 frames that
PyAV refused in files with flipped bits it returned 18 whole, 74 garbled and 14 times another frame,
so it is no fallback for damage. Importing this package imports neither torch nor a decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stm.data.decode.video import DEFAULT_LIMITS, Geometry, Limits, VideoError, VideoInfo

__all__ = [
    "DECODERS",
    "DEFAULT_LIMITS",
    "Geometry",
    "Limits",
    "VideoError",
    "VideoInfo",
    "probe",
    "read_clip",
    "read_frames",
    "read_views",
]

DECODERS = ("auto", "packets", "sequential", "decord")


def probe(source: Any, limits: Limits = DEFAULT_LIMITS) -> VideoInfo:
    """The facts of a video, from one pass over its packets and the decoding of one frame.

    Where packets cannot tell how many frames there are (see ``plan.py``), all are decoded and
    counted.

    Raises:
        VideoError: If no frame can be had from the source, or it takes more than
            ``limits``; ``reason`` says why.
    """
    from stm.data.decode import reader

    return reader.probe(source, limits)


def read_frames(
    source: Any, indices: Sequence[int], decoder: str = "auto", limits: Limits = DEFAULT_LIMITS
) -> NDArray[np.uint8]:
    """Whole frames at source resolution, as displayed.

    Args:
        source: Local path, frame folder, fsspec URL, bytes or binary file object.
        indices: Frame numbers from 0, in any order, repeats allowed.
        decoder: One of ``DECODERS``.
        limits: What takes more is refused.

    Returns:
        uint8 [K, height, width, 3], RGB, in the order of ``indices``.

    Raises:
        VideoError: If the source or a wanted frame cannot be read.
        ValueError: If ``indices`` is empty or ``decoder`` unknown.
    """
    from stm.data.decode import reader

    return reader.read_frames(source, indices, decoder, limits)


def read_clip(
    source: Any,
    indices: Sequence[int],
    box: Sequence[float],
    size: int,
    decoder: str = "auto",
    limits: Limits = DEFAULT_LIMITS,
) -> NDArray[np.uint8]:
    """One box cut out of the wanted frames and resized once, straight from source pixels.

    Args:
        source: As in ``read_frames``.
        indices: As in ``read_frames``.
        box: (left, top, width, height) in displayed source pixels; rounded by ``resize.pixel_box``.
        size: Side of the square result in pixels.
        decoder: One of ``DECODERS``.
        limits: As in ``read_frames``.

    Returns:
        uint8 [K, size, size, 3], RGB: a pure function of the frames, the box and the size.

    Raises:
        VideoError: If the source or a wanted frame cannot be read.
        ValueError: As in ``read_frames``, or if the box leaves the frame by over half a pixel.
    """
    return read_views(source, indices, [box], size, decoder, None, limits)[0]


def read_views(
    source: Any,
    indices: Sequence[int],
    boxes: Sequence[Sequence[float]],
    size: int,
    decoder: str = "auto",
    expected: Geometry | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> NDArray[np.uint8]:
    """Several boxes out of the same frames, decoded once: the crops of a test protocol.

    Args:
        source, indices, size, decoder, limits: As in ``read_clip``.
        boxes: V of them.
        expected: What the boxes and indices were planned with. Where the video has another size or
            another number of frames, larger or smaller, that is a ``VideoError`` ``changed``.

    Returns:
        uint8 [V, K, size, size, 3]: for each of the V boxes what ``read_clip`` returns for it.

    Raises:
        As ``read_clip``.
    """
    from stm.data.decode import reader

    return reader.read_views(source, indices, boxes, size, decoder, expected, limits)

"""Read frames of videos: correctness before speed, and no wrong frame without an error.

    from stm.data.decode import probe, read_clip
    info = probe("clip.mp4")
    clip = read_clip("clip.mp4", [0, 8, 16, 24], (40, 0, 240, 240), 224)  # uint8 [4, 224, 224, 3]

A source is a local path, a folder of frame images, an fsspec URL, or the bytes of a video file.

Decoders:
    packets     decode only the packets that wanted frames need, or sequentially if that is unsure
    sequential  always decode from the start
    decord      decord for the files that it can be trusted with, ``packets`` for the others
    auto        the fastest that is always right: ``packets``

A frame lost to or affected by damage that PyAV's decoder reports is an error, never a repeated or
patched picture. Not all damage is reported: some flipped bits still give valid syntax, and the HEVC
and VP9 decoders reported none of it in tests. decord reports nothing: of 106 frames that PyAV refused
in files with flipped bits, it returned 18 intact, 74 garbled and 14 as another frame, so it is no
fallback for damage. Importing this package imports neither torch nor a decoder.
"""

from __future__ import annotations

from stm.data.decode.reader import DECODERS, Frames, probe, read_clip, read_frames, read_views
from stm.data.video import DEFAULT_LIMITS, Geometry, Limits, VideoError, VideoInfo

__all__ = [
    "DECODERS",
    "DEFAULT_LIMITS",
    "Frames",
    "Geometry",
    "Limits",
    "VideoError",
    "VideoInfo",
    "probe",
    "read_clip",
    "read_frames",
    "read_views",
]

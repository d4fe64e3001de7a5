"""Read frames of videos, with correctness before speed.

    from stm.data.decode import probe, read_clip
    info = probe("clip.mp4")
    clip = read_clip("clip.mp4", [0, 8, 16, 24], (40, 0, 240, 240), 224)  # uint8 [4, 224, 224, 3]

A source is a local path, a folder of frame images, an fsspec URL, or the bytes of a video file.

Decoders:
    packets     decodes only the packets that the wanted frames need, or sequentially if that is unsafe
    sequential  always decodes from the first frame
    decord      uses decord for the files that it reads correctly, and ``packets`` for the others
    auto        is the fastest decoder that is always right: ``packets``

If PyAV's decoder reports damage that destroyed or affected a wanted frame, reading raises an error; it
never returns a repeated or patched picture. Some damage is not reported: flipped bits may still give
valid syntax, and the HEVC and VP9 decoders reported none in tests. decord reports no damage. Of 106
frames that PyAV refused in files with flipped bits, it returned 18 intact, 74 garbled and 14 as another
frame, so it is not used as a fallback. Importing this package imports neither torch nor a decoder.
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

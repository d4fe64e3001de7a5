"""What a video is to the rest of the program: its facts, and the one error it can fail with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, TypeAlias

# A local path, a folder of frame images, any fsspec URL, or the bytes of a file (from a shard).
Source: TypeAlias = "str | bytes | IO[bytes]"


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """Facts of one video, the same whichever decoder will read it."""

    num_frames: int
    """Frames that decoding in sequence gives: edit lists applied, missing data not counted."""
    fps: float
    """Average frames a second; 0.0 where nothing states it (a frame folder)."""
    width: int
    """Pixels, as displayed: after rotation."""
    height: int
    """Pixels, as displayed: after rotation."""
    codec: str
    """FFmpeg's name of the decoder, such as "h264"; "jpeg-folder" for a folder of frames."""
    container: str
    """FFmpeg's name of the container, such as "mov,mp4,m4a,3gp,3g2,mj2"; "folder" for a folder."""
    keyframe_interval: int
    """Packets in the longest run from one key frame to the next: what a random access may cost."""
    rotation: int
    """Degrees (0, 90, 180, 270) counter-clockwise by which frames are turned for display."""
    guard: str
    """Empty where decord may be trusted with this file, else why not."""


class VideoError(Exception):
    """A video, or a wanted frame of it, cannot be read.

    Attributes:
        path: The source, as it was given ("<bytes>" for bytes).
        reason: A short stable code, fit for counting: ``not_found``, ``permission_denied``,
            ``empty`` (no bytes, or a folder without images), ``not_a_video``, ``truncated`` (cut
            before its index), ``no_video_stream``, ``no_frames``, ``no_decoder``, ``unreadable``
            (damage took or reached a wanted frame), ``bad_index``, ``unsupported_url``,
            ``unsupported_source``.
        detail: The rest, for a person.
    """

    def __init__(self, path: str, reason: str, detail: str = "") -> None:
        super().__init__(path, reason, detail)  # exactly these: that is what makes it picklable
        self.path = path
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" + (f": {self.detail}" if self.detail else "")


def label(source: object) -> str:
    """How a source is called in messages."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "<bytes>"
    if hasattr(source, "read"):
        return str(getattr(source, "name", "<file object>"))
    return str(source)

"""Decode a video from a client. This runs in a child process that may hang or die (``stm.data.isolation``).

A deadline does not stop three kinds of malicious files:

    other files    A playlist (HLS, concat, SDP) names files of this machine or addresses of its network. stm never
                   opens such containers (``stm.data.decode.source``).
    memory         A few bytes can announce pictures of gigabytes. Pixels and memory are limited.
    crashes        A crash ends only this process. The upload is refused, and the next one starts a new process.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from stm.data.decode import VideoInfo, probe
from stm.data.decode.memory import memory_limit
from stm.data.stream.clips import ClipSpec, load_views
from stm.data.video import naming_failures
from stm.serve.frames import Images, decode_archive, decode_images, is_archive


@dataclass(frozen=True)
class Decoded:
    """The clip of an upload, and the facts of the video for the answer."""

    clip: np.ndarray
    """uint8 [T, size, size, 3]."""
    info: VideoInfo


@dataclass(frozen=True)
class Refused:
    """The reason why an upload has no answer."""

    status: int
    """HTTP status."""
    reason: str
    """A short code that does not change; for a video, the ``reason`` of ``VideoError``."""
    detail: str


def decode_upload(data: bytes | Images, clip: ClipSpec, memory_bytes: int) -> Decoded:
    """Return the clip that ``stm predict`` scores. Images, or a zip or tar file of them, are one video.

    Raises:
        VideoError: as ``stm.data.decode.read_views``; ``too_large`` if it needs more memory than ``memory_bytes``.
    """
    clip = replace(clip, limits=replace(clip.limits, memory_bytes=memory_bytes))
    with (
        naming_failures(data if isinstance(data, bytes) else "<images>"),
        memory_limit(memory_bytes),
    ):
        if isinstance(data, list):
            return Decoded(*decode_images(data, clip, memory_bytes))
        if is_archive(data):
            return Decoded(*decode_archive(data, clip, memory_bytes))
        info = probe(data, clip.limits)
        size = (info.num_frames, info.width, info.height)
        views, _ = load_views(data, *size, 0, 0, clip, info.fps)  # type: ignore[arg-type]
        return Decoded(views[0], info)


def ready() -> bool:
    """Do nothing, so that a call starts the process before the first upload."""
    return True

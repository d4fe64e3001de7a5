"""Decode a video that a stranger sent. Runs in a child process that may hang or die (``stm.data.isolation``).

Three things a file can try that a deadline does not stop:

    another file    a playlist (HLS, concat, SDP) names files of this machine or addresses of its network: such
                    containers are opened nowhere in stm (``stm.data.decode.source``)
    memory          a few bytes can announce pictures of gigabytes: pixels and memory are limited
    a crash         costs this process; the upload is refused, and the next one starts a fresh process
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
    """What the network needs of an upload, and what its sender is told of it."""

    clip: np.ndarray
    """uint8 [T, size, size, 3]."""
    info: VideoInfo


@dataclass(frozen=True)
class Refused:
    """Why there is no answer."""

    status: int
    """Of HTTP."""
    reason: str
    """A short stable code; for a video one of ``VideoError``'s."""
    detail: str


def decode_upload(data: bytes | Images, clip: ClipSpec, memory_bytes: int) -> Decoded:
    """The clip of a video file's bytes, as ``stm predict`` draws it. Images, or a zip or tar file of them, are one
    video.

    Raises:
        VideoError: as ``stm.data.decode.read_views``; ``too_large`` where it takes more than ``memory_bytes``.
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
    """Nothing: to have the process there before the first upload is."""
    return True

"""Decode a video that a stranger sent. Runs in a child process that may hang or die (``stm.data.isolation``).

Three things a file can try that a deadline does not stop:

    another file    a playlist (HLS, concat, SDP) names files of this machine or addresses of its network, and FFmpeg
                    would open them: containers that cannot name another file are the only ones that are read
    memory          a few bytes can announce pictures of gigabytes: the process has a limit of its own
    a crash         costs this process; the upload is refused, and the next one starts a fresh process
"""

from __future__ import annotations

import io
import resource
from dataclasses import dataclass
from pathlib import Path

import av
import av.error
import numpy as np

from stm.data.clips import ClipSpec, load_views
from stm.data.decode import VideoError, VideoInfo, probe
from stm.serve.frames import Images, decode_archive, decode_images, is_archive

CONTAINERS = (
    "mov",
    "mp4",
    "matroska",
    "webm",
    "avi",
    "mpegts",
    "mpeg",
    "mpegvideo",
    "m4v",
    "flv",
    "ogg",
    "asf",
    "mxf",
    "nut",
    "ivf",
    "h264",
    "hevc",
)
"""FFmpeg's names of containers that hold their pictures themselves."""

_limited = False


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
    """The clip of a video file's bytes, as ``stm predict`` draws it; this process never takes more than
    ``memory_bytes`` beyond what it had at its first call. Images, or a zip or tar file of them, are one video.

    Raises:
        VideoError: as ``stm.data.decode.read_views``; ``not_a_video`` for a container that is not in `CONTAINERS`.
        MemoryError: it needs more memory.
    """
    _limit_memory(memory_bytes)
    if isinstance(data, list):
        return Decoded(*decode_images(data, clip, memory_bytes))
    if is_archive(data):
        return Decoded(*decode_archive(data, clip, memory_bytes))
    _require_container(data)
    info = probe(data)
    views, _ = load_views(data, info.num_frames, info.width, info.height, 0, 0, clip)  # type: ignore[arg-type]
    return Decoded(views[0], info)


def ready() -> bool:
    """Nothing: to have the process there before the first upload is."""
    return True


def _require_container(data: bytes) -> None:
    """Open with FFmpeg's own list of what may be opened, which it applies before it reads a header."""
    allowed = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "none"}
    try:
        av.open(io.BytesIO(data), options=allowed, metadata_errors="ignore").close()
    except (av.error.InvalidDataError, av.error.EOFError):
        return  # no container at all, or a damaged one: `probe` finds the words, and nothing else can be opened
    except (av.error.FFmpegError, ValueError) as error:
        raise VideoError(
            "<bytes>", "not_a_video", f"not one of the containers {', '.join(CONTAINERS)} ({error})"
        ) from error


def _limit_memory(memory_bytes: int) -> None:
    global _limited
    status = Path("/proc/self/status")
    if _limited or not status.exists():  # Linux alone counts this way
        return
    _limited = True
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    limit = int(fields["VmData"].split()[0]) * 1024 + memory_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))

"""Open a path, URL, bytes or file object as one video stream, with a reason for every failure.

Only this module opens files with FFmpeg. It accepts only containers that hold their own pictures,
because FFmpeg would open the files and addresses that a playlist (HLS, ffconcat, DASH) or a stream
description (SDP) names.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import av.error

from stm.data.regular_file import require_regular
from stm.data.shards import is_shard_path, read_video
from stm.data.video import (
    DEFAULT_LIMITS,
    StoreAway,
    VideoError,
    check_pixels,
    label,
    naming_failures,
)
from stm.storage import StorageError, filesystem, is_away, is_url, split_url

# Remote files up to this size are fetched whole: one request instead of a seek for each packet.
FETCH_WHOLE_BYTES = 64 * 2**20

CONTAINERS = (
    *("mov", "mp4", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "ogg", "asf", "mxf", "nut"),
    *("ivf", "gif", "apng", "rm", "dv", "gxf", "nsv", "wtv", "yuv4mpegpipe", "amv", "swf", "roq"),
    # Streams without a container.
    *("mpegvideo", "m4v", "h261", "h263", "h264", "hevc", "vvc", "vc1", "vc1test", "av1", "obu"),
    *("cavsvideo", "avs2", "avs3", "dirac", "dnxhd", "mjpeg", "smjpeg", "mpjpeg"),
)
"""FFmpeg's names of containers that hold their own pictures. No others are opened."""

_JPEG_MAGIC = b"\xff\xd8\xff"

# Decoders in which no picture refers to another. With the options below they return no picture for a
# damaged packet; without them they fill it from the previous picture, or leave it blank, silently.
_INTRA_ONLY = frozenset(["ffv1", "prores", "png", "apng", "jpeg2000", "libopenjpeg", "dvvideo"])
_GIVE_UP_AT_DAMAGE = {"err_detect": "crccheck+bitstream+buffer+explode"}
# Decoders that would also give up at an unknown tag.
_NEVER_GIVE_UP = frozenset(["tiff"])

STREAM_PROTOCOLS = {
    "rtsp": "rtsp,rtp,udp,tcp",
    "rtsps": "rtsps,rtsp,rtp,srtp,udp,tcp,tls",
    "rtmp": "rtmp,tcp",
    "rtmps": "rtmps,rtmp,tcp,tls",
    "rtp": "rtp,udp",
    "udp": "udp",
    "tcp": "tcp",
    "srt": "srt",
    "http": "http,https,tls,tcp",
    "https": "http,https,tls,tcp",
}
"""URL schemes of streams, which FFmpeg opens itself, and the protocols that it may use for each."""

_FILES_AS_WELL = ("http", "https")
"""Schemes whose URLs are files, read by fsspec, unless ``is_live`` is set."""

_OF_STREAMS = ("rtsp", "rtp", "sdp", "live_flv")
_DEVICE_FORMAT = "v4l2"

UNALIGNED = av.codec.context.Flags.unaligned
"""Decoder flag that allows cropping at any pixel. Without it FFmpeg omits a crop at the left if the
result would not be aligned."""

_NO_CONTAINER = (
    *(av.error.ArgumentError, av.error.DecoderNotFoundError),
    *(av.error.InvalidDataError, av.error.EOFError),
)


@dataclass
class OpenVideo:
    """An open container and its selected video stream, with one decoder thread."""

    source: object
    container: Any
    stream: Any
    name: str
    width: int
    height: int
    """Coded size in pixels, before any rotation; frames of another size are scaled to it, as
    ``ffmpeg`` does."""
    num_video_streams: int
    max_pixels: int

    @property
    def context(self) -> Any:
        """PyAV's codec context of the stream."""
        return self.stream.codec_context

    @property
    def is_intra_only(self) -> bool:
        """Whether no picture refers to another."""
        return self.context.codec.intra_only or self.context.name in _INTRA_ONLY


@dataclass(frozen=True)
class Stream:
    """How to open a stream or device, which has no known end and may stop sending."""

    open_s: float
    """Time limit for its first response, in s."""
    stall_s: float
    """Time without a packet, in s, after which it counts as disconnected."""
    options: tuple[tuple[str, str], ...] = ()
    """FFmpeg options, such as ("rtsp_transport", "udp") or ("framerate", "30")."""


def is_stream(source: object, is_live: bool = False) -> bool:
    """Return whether the source is a stream's address or a device. An HTTP URL is one only if ``is_live``."""
    if not isinstance(source, (str, os.PathLike)):
        return False
    path = os.fspath(source)
    if not is_url(path):
        return _is_device(path)
    scheme = split_url(path)[0].lower()
    return scheme in STREAM_PROTOCOLS and (is_live or scheme not in _FILES_AS_WELL)


def _is_device(path: str) -> bool:
    try:
        return stat.S_ISCHR(os.stat(path).st_mode)
    except OSError:
        return False


@contextlib.contextmanager
def open_video(
    source: object, max_pixels: int = DEFAULT_LIMITS.max_pixels, stream: Stream | None = None
) -> Iterator[OpenVideo]:
    """Yield the source's video stream, ready to demux and decode; close everything afterwards.

    If there are several video streams, the one that the ``ffmpeg`` command selects is used (``_rank``).
    With ``stream``, the source must be a stream's address or a device (``is_stream``).

    Raises:
        VideoError: With the reason, if there is no video stream to read, its container is not in
            ``CONTAINERS``, or its frames have more than ``max_pixels`` pixels.
    """
    name = label(source)
    with contextlib.ExitStack() as stack:
        with naming_failures(source):
            try:
                if stream is not None:
                    container = stack.enter_context(_open_stream(str(source), stream))
                else:
                    opened = stack.enter_context(_open_bytes_or_path(source))
                    container = stack.enter_context(_open_container(opened))
            except _NO_CONTAINER as error:
                raise VideoError(name, *_why_no_container(source, error)) from error
        pictures = max(container.streams.video, key=_rank, default=None)
        if pictures is None or _is_cover(pictures):
            kinds = sorted({"a cover" if _is_cover(s) else s.type for s in container.streams})
            detail = f"it contains only {', '.join(kinds)}" if kinds else "it is empty"
            raise VideoError(name, "no_video_stream", detail)
        context = pictures.codec_context
        if context is None:
            raise VideoError(name, "no_decoder", "PyAV has no decoder for its video stream")
        for other in container.streams:
            if other.index != pictures.index:
                other.discard = av.stream.Discard.all
        check_pixels(name, context.width, context.height, max_pixels)
        # More threads took 13-40 % more CPU time and saved little wall time. Use more workers instead.
        context.thread_count = 1
        context.thread_type = "NONE"
        context.flags |= int(UNALIGNED)
        num_video_streams = sum(not _is_cover(s) for s in container.streams.video)
        video = OpenVideo(
            source,
            container,
            pictures,
            name,
            context.width,
            context.height,
            num_video_streams,
            max_pixels,
        )
        gives_up = video.is_intra_only and context.name not in _NEVER_GIVE_UP
        # A later frame may have a larger size than the header states.
        limit = {"max_pixels": str(max_pixels)}
        context.options = {**limit, **(_GIVE_UP_AT_DAMAGE if gives_up else {})}
        yield video


def _rank(stream: Any) -> tuple[bool, int]:
    """Sorting key of the ``ffmpeg`` command: the stream with the most pixels wins, the default stream
    counts 5 million more, and covers come last."""
    context = stream.codec_context
    pixels = context.width * context.height if context is not None else 0
    is_default = bool(stream.disposition & av.stream.Disposition.default)
    return not _is_cover(stream), pixels + 5_000_000 * is_default


def _is_cover(stream: Any) -> bool:
    """Whether a video stream is only the cover picture of a video or a song."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _open_container(opened: Any) -> Any:
    """The container, if it is one of ``CONTAINERS``; raises what PyAV raises."""
    # Tags in a legacy encoding are common and do not matter for the pictures.
    options = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}
    try:
        return av.open(opened, options=options, metadata_errors="ignore")
    except av.error.ArgumentError:  # FFmpeg's error for a container that is not listed
        if not _is_several_jpegs(opened):
            raise
    # FFmpeg mistakes consecutive JPEG images for one image of a numbered series.
    _rewind(opened)
    return av.open(opened, format="mjpeg", options=options)


def _open_stream(url: str, stream: Stream) -> Any:
    """The container of a stream or a device; raises what PyAV raises."""
    scheme = split_url(url)[0].lower()
    formats, protocols = [*CONTAINERS, *_OF_STREAMS], STREAM_PROTOCOLS.get(scheme, "file")
    options = {"rtsp_transport": "tcp"} if scheme in ("rtsp", "rtsps") else {}
    options |= dict(stream.options)
    if scheme in STREAM_PROTOCOLS:
        options |= {"format_whitelist": ",".join(formats), "protocol_whitelist": protocols}
    return av.open(
        url,
        format=None if scheme in STREAM_PROTOCOLS else _DEVICE_FORMAT,
        options=options,
        metadata_errors="ignore",
        timeout=(stream.open_s, stream.stall_s),
    )


def _is_several_jpegs(opened: Any) -> bool:
    """Whether a file consists of several consecutive JPEG images (MJPEG)."""
    _rewind(opened)
    if isinstance(opened, str):
        with open(opened.removeprefix("file:"), "rb") as file:
            start = file.read(len(_JPEG_MAGIC))
    else:
        start = bytes(opened.read(len(_JPEG_MAGIC)))
        _rewind(opened)
    if start != _JPEG_MAGIC:
        return False
    with av.open(opened, format="mjpeg", options={"protocol_whitelist": "file"}) as container:
        packets = (packet for packet in container.demux(video=0) if packet.size)
        return next(packets, None) is not None and next(packets, None) is not None


def _rewind(opened: Any) -> None:
    if not isinstance(opened, str):
        opened.seek(0)


@contextlib.contextmanager
def _open_bytes_or_path(source: Any) -> Iterator[Any]:
    """The argument for ``av.open``: a path that is certainly a file, or a seekable file object."""
    if is_shard_path(source):
        source = read_video(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        if not source:
            raise VideoError(label(source), "empty", "zero bytes")
        yield io.BytesIO(source)
    elif hasattr(source, "read"):
        source.seek(0)
        yield source
    elif is_url(source):
        with _open_url(str(source)) as file:
            yield file
    else:
        path = os.fspath(source)
        found = os.stat(path)
        require_regular(path, found)
        if found.st_size == 0:
            raise VideoError(label(source), "empty", "zero bytes")
        # An absolute path keeps FFmpeg from taking "a:b.mp4" for a protocol, or "-" for a pipe.
        yield "file:" + os.path.abspath(path)


@contextlib.contextmanager
def _open_url(url: str) -> Iterator[Any]:
    try:
        store, path = filesystem(url)
    except StorageError as error:
        raise VideoError(url, "unsupported_url", error.strerror or str(error)) from error
    whole = None
    try:
        size = store.size(path)
        if size is not None and 0 < size <= FETCH_WHOLE_BYTES:
            whole = store.cat_file(path)
    except Exception as error:
        if is_away(url, error):
            raise StoreAway(url, "unreadable", f"its store does not answer: {error}") from error
        raise
    if size == 0:
        raise VideoError(url, "empty", "zero bytes")
    if size is None and split_url(url)[0].lower() in _FILES_AS_WELL:
        detail = "the server does not report its length: `stm predict --window_s N --live true` reads such streams"
        raise VideoError(url, "unsupported_url", detail)
    if whole is not None:
        yield io.BytesIO(whole)
    else:
        with store.open(path, "rb") as file:
            yield file


def _why_no_container(source: object, error: Exception) -> tuple[str, str]:
    """The (reason, detail) behind one of ``_NO_CONTAINER``."""
    if isinstance(error, av.error.DecoderNotFoundError):
        return "no_decoder", str(error)
    if isinstance(error, av.error.ArgumentError):
        what = "not a container that holds its own pictures, such as MP4, MKV, AVI, WebM or MPEG-TS"
        return "not_a_video", f"{what}; playlists and single images are not accepted"
    if _first_bytes(source)[4:8] == b"ftyp":
        return "truncated", "an MP4 file whose index (moov) is missing or damaged"
    if _first_bytes(source).startswith(b"version https://"):
        return (
            "not_a_video",
            "a Git LFS pointer, not the file itself; `git lfs pull` fetches the file",
        )
    return "not_a_video", "FFmpeg recognises no container in it"


def _first_bytes(source: object, count: int = 16) -> bytes:
    if is_stream(source):
        return b""
    try:
        with _open_bytes_or_path(source) as opened:
            if isinstance(opened, str):
                with open(opened.removeprefix("file:"), "rb") as file:
                    return file.read(count)
            return bytes(opened.read(count))
    except Exception:
        return b""

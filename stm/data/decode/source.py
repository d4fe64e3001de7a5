"""Open a path, URL, bytes or file object as one video stream, and name every way that can fail."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import av.error

from stm.data.decode.video import VideoError, label
from stm.data.shards import is_shard_path, read_video

# Remote files up to this size are fetched whole: one request instead of a seek for each packet.
FETCH_WHOLE_BYTES = 64 * 2**20

# FFmpeg opens single pictures and plain text (as "ansi art") too; neither is a video.
_NOT_VIDEO_CONTAINERS = ("tty", "image2", "bin", "xbin", "adf", "idf")


@dataclass
class OpenVideo:
    """An open container and the one stream of it that is read, on one decoder thread."""

    source: object
    container: Any
    stream: Any
    name: str
    width: int
    height: int
    """Coded size in pixels, before any rotation; frames of another size are scaled to it, as
    ``ffmpeg`` does."""

    @property
    def context(self) -> Any:
        return self.stream.codec_context


@contextlib.contextmanager
def open_video(source: object) -> Iterator[OpenVideo]:
    """Yield the source's video stream, ready to demux and decode; close everything afterwards.

    Raises:
        VideoError: With the reason, if there is no video stream to read.
    """
    name = label(source)
    with contextlib.ExitStack() as stack:
        try:
            opened = stack.enter_context(_open_bytes_or_path(source))
            # Tags in a legacy encoding are common and say nothing about the pictures.
            container = stack.enter_context(av.open(opened, metadata_errors="ignore"))
        except VideoError:
            raise
        except Exception as error:
            raise _as_video_error(name, source, error) from error
        kind = container.format.name
        if kind in _NOT_VIDEO_CONTAINERS or kind.endswith("_pipe"):
            raise VideoError(name, "not_a_video", f"FFmpeg reads it as {kind}")
        stream = container.streams.best("video")
        if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
            kinds = sorted({s.type for s in container.streams}) or ["no streams"]
            raise VideoError(name, "no_video_stream", f"it holds {', '.join(kinds)}")
        context = stream.codec_context
        if context is None:
            raise VideoError(name, "no_decoder", "PyAV has no decoder for its video stream")
        for other in container.streams:
            if other.index != stream.index:
                other.discard = av.stream.Discard.all
        # More threads cost 13-40 % more CPU for little wall time: parallelism is more workers.
        context.thread_count = 1
        context.thread_type = "NONE"
        yield OpenVideo(source, container, stream, name, context.width, context.height)


@contextlib.contextmanager
def _open_bytes_or_path(source: Any) -> Iterator[Any]:
    """What ``av.open`` is given: a path that is surely a file, or a seekable file object."""
    if is_shard_path(source):
        source = read_video(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        if not source:
            raise VideoError(label(source), "empty", "zero bytes")
        yield io.BytesIO(source)
    elif hasattr(source, "read"):
        source.seek(0)
        yield source
    elif "://" in str(source):
        with _open_url(str(source)) as file:
            yield file
    else:
        path = os.fspath(source)
        if os.path.isdir(path):
            raise VideoError(label(source), "unsupported_source", "a folder, not a file")
        if os.stat(path).st_size == 0:
            raise VideoError(label(source), "empty", "zero bytes")
        # An absolute path keeps FFmpeg from taking "a:b.mp4" for a protocol, or "-" for a pipe.
        yield "file:" + os.path.abspath(path)


@contextlib.contextmanager
def _open_url(url: str) -> Iterator[Any]:
    try:
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise VideoError(url, "unsupported_url", str(error)) from error
    size = filesystem.size(path)
    if size == 0:
        raise VideoError(url, "empty", "zero bytes")
    if size is not None and size <= FETCH_WHOLE_BYTES:
        yield io.BytesIO(filesystem.cat_file(path))
    else:
        with filesystem.open(path, "rb") as file:
            yield file


def _as_video_error(name: str, source: object, error: Exception) -> VideoError:
    """The reason behind an exception of opening."""
    if isinstance(error, FileNotFoundError):
        return VideoError(name, "not_found", "no such file")
    if isinstance(error, PermissionError):
        return VideoError(name, "permission_denied", "this user may not read it")
    if isinstance(error, av.error.DecoderNotFoundError):
        return VideoError(name, "no_decoder", str(error))
    if isinstance(error, (av.error.InvalidDataError, av.error.EOFError)):
        if _first_bytes(source)[4:8] == b"ftyp":
            return VideoError(name, "truncated", "an mp4 whose index (moov) is missing or damaged")
        return VideoError(name, "not_a_video", "FFmpeg recognises no container in it")
    return VideoError(name, "unreadable", f"{type(error).__name__}: {error}")


def _first_bytes(source: object, count: int = 16) -> bytes:
    try:
        with _open_bytes_or_path(source) as opened:
            if isinstance(opened, str):
                with open(opened.removeprefix("file:"), "rb") as file:
                    return file.read(count)
            return bytes(opened.read(count))
    except Exception:
        return b""

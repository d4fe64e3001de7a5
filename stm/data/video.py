"""The types that describe a video: its facts, its limits, and the error for reading failures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, TypeAlias

from stm.config import DataConfig
from stm.plural import counted


@dataclass(frozen=True)
class Limits:
    """Limits of a video; one that exceeds them is refused as ``too_large``."""

    max_pixels: int = DataConfig.max_pixels
    """Pixels per frame; 8K video has half as many."""

    memory_bytes: int = DataConfig.decode_mib * 2**20
    """Memory that decoding may add to the process (``stm.data.decode.memory``)."""


DEFAULT_LIMITS = Limits()

# A local path, a folder of frame images, any fsspec URL, or the bytes of a file (from a shard).
Source: TypeAlias = "str | bytes | IO[bytes]"


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """Facts of one video, independent of the decoder."""

    num_frames: int
    """Frames from sequential decoding: edit lists are applied, and missing data is not counted."""
    fps: float
    """Mean frames per second; 0.0 if unknown (a frame folder)."""
    width: int
    """Pixels, as displayed: after rotation."""
    height: int
    """Pixels, as displayed: after rotation."""
    codec: str
    """FFmpeg's name of the decoder, such as "h264"; "jpeg-folder" for a folder of frames."""
    container: str
    """FFmpeg's name of the container, such as "mov,mp4,m4a,3gp,3g2,mj2"; "folder" for a folder."""
    keyframe_interval: int
    """Most packets from one key frame to the next: the cost of a random access."""
    rotation: int
    """Degrees (0, 90, 180, 270) counter-clockwise by which frames are turned for display."""
    guard: str
    """Empty if decord may be trusted with this file, else the reason why not."""


@dataclass(frozen=True)
class Geometry:
    """Length, size and rate of a video as in the manifest, with which its clips are planned."""

    num_frames: int
    width: int
    """Pixels, as displayed."""
    height: int
    """Pixels, as displayed."""
    fps: float = 0.0
    """Mean frames per second; 0.0 if times are not needed."""

    def check_length(self, name: str, num_frames: int) -> None:
        """Raise ``VideoError`` ``changed`` if the video has another number of frames."""
        if num_frames != self.num_frames:
            raise self._changed(
                name, f"it has {counted(num_frames, 'frame')}", f"{self.num_frames}"
            )

    def check_size(self, name: str, width: int, height: int) -> None:
        """Raise ``VideoError`` ``changed`` if its frames have another size."""
        if (width, height) != (self.width, self.height):
            planned = f"{self.width}x{self.height}"
            raise self._changed(name, f"its frames have {width}x{height} pixels", planned)

    @staticmethod
    def _changed(name: str, found: str, planned: str) -> VideoError:
        detail = f"{found}, the manifest says {planned}: if the file is another now, index it again"
        return VideoError(name, "changed", detail)


class VideoError(Exception):
    """A video, or a wanted frame of it, cannot be read.

    Attributes:
        path: The source, as it was given ("<bytes>" for bytes).
        reason: A short stable code, fit for counting: ``not_found``, ``permission_denied``,
            ``empty`` (no bytes, or a folder without images), ``ambiguous`` (a folder with several
            series of images), ``not_a_video``, ``truncated`` (cut
            before its index), ``no_video_stream``, ``no_frames``, ``no_decoder``, ``unreadable``
            (damage took or reached a wanted frame), ``bad_index``, ``changed`` (not the size or
            length that the clip was planned with), ``too_large`` (more pixels or memory
            than ``Limits`` allow), ``unsupported_url``, ``unsupported_source``, ``failed`` (anything
            else that a library raised).
        detail: Details for a person to read.
    """

    def __init__(self, path: str, reason: str, detail: str = "") -> None:
        # File names that are not UTF-8 contain surrogates, which Arrow and terminals refuse.
        detail = detail.encode(errors="backslashreplace").decode()
        super().__init__(path, reason, detail)  # exactly these: that is what makes it picklable
        self.path = path
        self.reason = reason
        self.detail = detail

    @property
    def why(self) -> str:
        """Reason and detail in one line."""
        return f"{self.reason}: {self.detail}" if self.detail else self.reason

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


class StoreAway(VideoError):
    """The store of the video does not respond; the video itself may be fine. Reason ``unreadable``."""


def label(source: object) -> str:
    """The name of a source in messages."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "<bytes>"
    if hasattr(source, "read"):
        return str(getattr(source, "name", "<file object>"))
    return str(source)


@contextlib.contextmanager
def naming_failures(source: object, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn whatever the block raises about ``source`` into a ``VideoError``.

    This is the only boundary between the libraries that read, decode and crop pictures, which may
    raise any exception, and their callers, which must continue after one bad video.

    Args:
        source: The source, for the message.
        passing: Exceptions caused by the caller, which are not converted.

    Raises:
        VideoError: With the reason; a VideoError from the block passes unchanged.
    """
    try:
        yield
    except VideoError:
        raise
    except Exception as error:
        if isinstance(error, passing):
            raise
        raise VideoError(label(source), *_reason_and_detail(error)) from error


def _reason_and_detail(error: Exception) -> tuple[str, str]:
    if isinstance(error, FileNotFoundError):
        return "not_found", "no such file"
    if isinstance(error, PermissionError):
        return "permission_denied", "this user may not read it"
    try:
        said = str(error).strip().splitlines()
    except Exception:  # str() of an error may itself fail
        said = []
    detail = f"{type(error).__name__}: {said[0]:.200}" if said else type(error).__name__
    # PyTorch reports a failed allocation as a RuntimeError.
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in detail:
        return "too_large", "decoding it takes more memory than the limit decode_mib allows"
    is_of_ffmpeg = type(error).__module__.partition(".")[0] == "av"
    return ("unreadable" if is_of_ffmpeg or isinstance(error, OSError) else "failed"), detail


def check_pixels(name: str, width: int, height: int, max_pixels: int) -> None:
    """Raise ``VideoError`` ``too_large`` if a picture has more than ``max_pixels`` pixels."""
    if width * height > max_pixels:
        detail = (
            f"its frames have {width}x{height} pixels, but the limit max_pixels allows {max_pixels}"
        )
        raise VideoError(name, "too_large", detail)

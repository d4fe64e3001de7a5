"""What a video is to the rest of the program: its facts, and the one error it can fail with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, TypeAlias

from stm.config import DataConfig


@dataclass(frozen=True)
class Limits:
    """What a video may take: beyond it, it is refused as ``too_large``."""

    max_pixels: int = DataConfig.max_pixels
    """Of a frame; 8K video has half as many."""

    memory_bytes: int = DataConfig.decode_mib * 2**20
    """By which decoding may make the process grow (``stm.data.decode.memory``)."""


DEFAULT_LIMITS = Limits()

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


@dataclass(frozen=True)
class Geometry:
    """What a manifest says of a video, and what a clip of it was planned with."""

    num_frames: int
    width: int
    """Pixels, as displayed."""
    height: int
    """Pixels, as displayed."""
    fps: float = 0.0
    """Mean frames a second; 0.0 where nobody asks for times."""

    def check_length(self, name: str, num_frames: int) -> None:
        """Raise ``VideoError`` ``changed`` if the video has another number of frames."""
        if num_frames != self.num_frames:
            raise self._changed(name, f"it has {num_frames} frames", f"{self.num_frames}")

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
        detail: The rest, for a person.
    """

    def __init__(self, path: str, reason: str, detail: str = "") -> None:
        # Names of files that are not UTF-8 come as surrogates, which Arrow and terminals refuse.
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
    """The store that holds the video does not answer: nothing is said of the video itself. Reason ``unreadable``."""


def label(source: object) -> str:
    """How a source is called in messages."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "<bytes>"
    if hasattr(source, "read"):
        return str(getattr(source, "name", "<file object>"))
    return str(source)


@contextlib.contextmanager
def naming_failures(source: object, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn whatever the block raises about ``source`` into a ``VideoError``.

    This is the one boundary between the libraries that read, decode and cut pictures, which raise
    anything, and their callers, for whom one bad video is no reason to lose the others.

    Args:
        source: What is read, for the message.
        passing: Exceptions that are the caller's own mistake and leave as they are.

    Raises:
        VideoError: With the reason; one that is raised inside passes unchanged.
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
    except Exception:  # an error may fail to say what it is
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
        detail = f"frames of {width}x{height} pixels, the limit max_pixels allows {max_pixels}"
        raise VideoError(name, "too_large", detail)

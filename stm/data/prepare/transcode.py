"""Transcode one video to be cheap to decode, and verify the result by decoding it.

    facts = VideoFacts("clip.avi", num_frames=75, fps=25.0, width=320, height=240)
    make_video(facts, "clip.mp4", Settings())

Every displayed frame of the source appears once, in order, at a constant rate, rotated for display.
The result is cheap to decode because it has few pixels, many key frames, B-frames that are not
references and can be skipped, no CABAC and no deblocking (``tune fastdecode``). The alternative is
JPEG images, of which only the wanted ones are read.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
import simplejpeg
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from stm.data import decode
from stm.data.decode import DEFAULT_LIMITS, Limits, VideoError, folder, sequential
from stm.data.decode.memory import memory_limit
from stm.data.decode.orientation import find_matrix
from stm.data.decode.pictures import UPRIGHT, RgbConverter, display_matrix
from stm.data.decode.plan import scan
from stm.data.decode.source import open_video
from stm.data.prepare.encoding import JpegWriter, Mp4Writer, OutputFailed, Writer, write_images
from stm.data.prepare.timing import CLIP, compare_ms
from stm.data.shards import is_shard_path, num_bytes_of_row, shard_path
from stm.plural import counted

__all__ = [
    "CODECS",
    "NoGain",
    "OutputFailed",
    "Prepared",
    "Settings",
    "VideoFacts",
    "make_video",
    "prepared_size",
]

CODECS = ("h264", "jpeg")

SAME_CELLS = 4.0
"""Maximum mean absolute difference, out of 255, between the means over 8 x 8 cells of two equal
frames. Encoding hardly changes a mean over a thousand pixels: real clips stay under 0.6, tiny synthetic
ones under 1.8. Mirrored, rotated and other frames of moving clips differ by 5 to 100."""

SAME_PIXELS = 20.0
"""The same for single pixels, to detect a picture that lost its detail. Real clips stay under 4;
white noise, the worst case, reaches 15."""

_GRID = 8
_FRAMES_COMPARED = 3
_UNKNOWN_FPS = 25.0  # frame folders have no rate; nothing here depends on it
_LARGEST_SIDE = 2**15 - 1  # int16 in the manifest
_CANNOT_WRITE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})


class NoGain(Exception):
    """The result would not be cheap enough compared to the source, so the source is kept."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a result. Results made with other settings are made again."""

    short_side: int = 256
    """Pixels; a smaller video is not enlarged."""

    codec: str = "h264"
    """"h264", or "jpeg": one image per frame, which only a shard can hold."""

    gop: int = 16
    """Frames from one H.264 key frame to the next; with 1 every frame is a key frame."""

    keep_jpeg: bool = False
    """Pack the images of a frame folder unchanged instead of encoding a video."""

    min_gain: float = 0.0
    """A video is left alone unless its result decodes at least this many times as fast; with 0 all
    videos are prepared. Images that are kept are always packed."""


@dataclass(frozen=True)
class VideoFacts:
    """A video as the manifest describes it."""

    path: str
    num_frames: int
    fps: float
    width: int
    height: int
    is_frames: bool = False
    """A folder, or a row of a shard, of image files."""

    @property
    def limits(self) -> Limits:
        """Limits that accept every video that indexing has accepted."""
        largest = max(DEFAULT_LIMITS.max_pixels, self.width * self.height)
        return replace(DEFAULT_LIMITS, max_pixels=largest)


@dataclass(frozen=True)
class Prepared:
    """The facts of a result: columns of its manifest, and its bytes on disk."""

    width: int
    height: int
    codec: str
    keyframe_interval: int
    guard: str
    num_bytes: int


def prepared_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """(width, height) of the result: even, short side at most `short_side`, same aspect ratio."""
    short = min(short_side, width, height) // 2 * 2 or 2
    scale = short / min(width, height)
    even_width, even_height = (max(2, round(side * scale / 2) * 2) for side in (width, height))
    return (short, even_height) if width <= height else (even_width, short)


def make_video(facts: VideoFacts, target: str, settings: Settings) -> Prepared:
    """Write the result at `target`: an mp4, or a shard of one row (.parquet) for images.

    Raises:
        VideoError: If a frame of the source cannot be decoded, the source differs from the
            manifest (``changed``), or the result does not match the source (``not_verified``).
        NoGain: If the result is not `settings.min_gain` times as fast to decode as the source.
        OutputFailed: If the result cannot be written.
    """
    with memory_limit(DEFAULT_LIMITS.memory_bytes):
        return _make(facts, target, settings)


def _make(facts: VideoFacts, target: str, settings: Settings) -> Prepared:
    try:
        if facts.is_frames and settings.keep_jpeg:
            return _pack_images(facts, target)
        with _Encoder(facts, target, settings) as encoder:
            _each_frame(facts, encoder)
        result = shard_path(target, 0) if settings.codec == "jpeg" else target
        _compare_all(facts, result, encoder.luma)
        _compare_some(facts, result)
        info = decode.probe(result)
        if (info.width, info.height) != encoder.size:
            detail = f"the result is {info.width}x{info.height} pixels, not {encoder.size}"
            raise VideoError(facts.path, "not_verified", detail)
        if settings.min_gain:
            _check_gain(facts, result, settings.min_gain)
        with open(target, "rb") as file:
            os.fsync(file.fileno())  # network disks report only now that they are full
        num_bytes = os.path.getsize(target) if result == target else num_bytes_of_row(result)
        return Prepared(
            info.width, info.height, info.codec, info.keyframe_interval, info.guard, num_bytes
        )
    except OSError as error:  # PyAV's system errors are OSErrors, too
        if error.errno in _CANNOT_WRITE:
            raise OutputFailed(f"{target}: {error.strerror}") from error
        raise


class _Encoder:
    """Scales frames and passes them to a writer in order; a context manager that finishes the file."""

    def __init__(self, facts: VideoFacts, target: str, settings: Settings) -> None:
        self._facts = facts
        self.size = prepared_size(facts.width, facts.height, settings.short_side)
        if max(self.size) > _LARGEST_SIDE:
            detail = f"it would be {self.size[0]}x{self.size[1]} pixels"
            raise VideoError(facts.path, "too_large", detail)
        # An extreme rate from a damaged header would not fit the mp4's time base.
        fps = facts.fps if 0.1 <= facts.fps <= 1000 else _UNKNOWN_FPS
        self._rate = Fraction(fps).limit_denominator(1001)
        self._writer: Writer
        if settings.codec == "jpeg":
            self._writer = JpegWriter(facts.path, target, self.size)
        else:
            self._writer = Mp4Writer(target, self.size, self._rate, settings.gop)
        self._reformatter = VideoReformatter()
        self._colorspace = int(Colorspace.ITU601)
        self.luma: list[NDArray[np.float32]] = []
        """Grid of luma means of each frame that was encoded."""

    def __enter__(self) -> _Encoder:
        return self

    def __exit__(self, kind: Any, *exception: object) -> None:
        if kind is None and self.luma:
            self._writer.finish()
        else:
            self._writer.abandon()

    def add(self, frame: Any) -> None:
        """Encode a decoded frame; colour tags are those of the source if possible."""
        if not self.luma:
            self._colorspace = frame.colorspace
            self._writer.open(frame.colorspace, frame.color_primaries, frame.color_trc)
        if self._writer.colorspace is None:
            self._encode(self._scaled(frame))
        else:
            self._encode(self._converted(frame, self._writer.colorspace))

    def put(self, slot: int, pixels: NDArray[np.uint8]) -> None:
        """Encode uint8 [height, width, 3], RGB as displayed."""
        del slot
        height, width, _ = pixels.shape
        _check_unchanged(self._facts, self._facts.num_frames, width, height)
        if not self.luma:
            self._writer.open(self._colorspace, None, None)
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        self._encode(self._converted(rgb, self._writer.colorspace or self._colorspace))

    def _converted(self, frame: Any, colorspace: int) -> Any:
        return self._scaled(
            frame, dst_colorspace=colorspace, dst_color_range=self._writer.color_range
        )

    def _scaled(self, frame: Any, **colours: Any) -> Any:
        return self._reformatter.reformat(
            frame,
            *self.size,
            format=self._writer.pix_fmt,
            interpolation=Interpolation.BICUBIC,
            threads=1,
            **colours,
        )

    def _encode(self, frame: Any) -> None:
        frame.pts, frame.time_base = len(self.luma), 1 / self._rate
        frame.pict_type = 0  # else x264 would copy the source's key frames
        self.luma.append(_luma_grid(frame))
        self._writer.write(frame)


def _each_frame(facts: VideoFacts, encoder: _Encoder) -> None:
    """Give the encoder every displayed frame of the source, in order."""
    info = decode.probe(facts.path, facts.limits)
    _check_unchanged(facts, info.num_frames, info.width, info.height)
    wanted = list(range(info.num_frames))
    if facts.is_frames:
        folder.read(facts.path, wanted, encoder, max_pixels=facts.limits.max_pixels)
        return
    with open_video(facts.path, facts.limits.max_pixels) as video:
        plan = scan(video)
        # As in probing: frames that packets cannot number are counted, and so are pictures of two packets.
        count = bool(plan.doubt) or plan.num_frames != info.num_frames
        find_matrix(plan)
        to_rgb = RgbConverter(video.name, video.width, video.height, plan.matrix)

        def emit(number: int, frame: Any) -> None:
            if number != len(encoder.luma):
                detail = f"frame {number} came after frame {len(encoder.luma) - 1}"
                raise VideoError(facts.path, "unreadable", detail)
            if plan.matrix in (None, UPRIGHT) and _is_plain(frame, facts):
                encoder.add(frame)
            else:
                encoder.put(number, to_rgb(frame))

        sequential.decode(plan, wanted, emit, count=count)


def _check_unchanged(facts: VideoFacts, num_frames: int, width: int, height: int) -> None:
    if (num_frames, width, height) != (facts.num_frames, facts.width, facts.height):
        indexed = f"{counted(facts.num_frames, 'frame')} of {facts.width}x{facts.height}"
        now = f"{counted(num_frames, 'frame')} of {width}x{height} pixels"
        detail = f"it has {now}, but the manifest says {indexed}: index it again"
        raise VideoError(facts.path, "changed", detail)


def _is_plain(frame: Any, facts: VideoFacts) -> bool:
    """Whether the frame can be encoded without conversion to RGB."""
    return (
        frame.format.name == "yuv420p"
        and frame.color_range != ColorRange.JPEG
        and (frame.width, frame.height) == (facts.width, facts.height)
        and not frame.interlaced_frame
        and display_matrix(frame) == UPRIGHT
    )


def _compare_all(facts: VideoFacts, target: str, expected: list[NDArray[np.float32]]) -> None:
    """Decode the whole result and check that its frames are the encoded ones, in order."""
    num_frames = 0
    failures: list[sequential.Failure] = []
    for grid in _grids_of_result(target, failures):
        if num_frames < len(expected):
            difference = float(np.abs(grid - expected[num_frames]).mean())
            if difference > SAME_CELLS:
                detail = f"frame {num_frames} of the result differs by {difference:.1f} of 255"
                raise VideoError(facts.path, "not_verified", detail)
        num_frames += 1
    if failures or not num_frames == len(expected) == facts.num_frames:
        detail = f"the result has {counted(num_frames, 'frame')}, the source {facts.num_frames}"
        raise VideoError(facts.path, "not_verified", detail)


def _grids_of_result(
    target: str, failures: list[sequential.Failure]
) -> Iterator[NDArray[np.float32]]:
    """`_grid` of the luma of each frame; infinity if the decoder reports damage."""
    if is_shard_path(target):
        for image in folder.list_frames(target):
            yield _grid(simplejpeg.decode_jpeg(image, "GRAY"))
        return
    with open_video(target) as video:
        for frame in sequential.all_frames(scan(video), failures):
            yield _luma_grid(frame) + (np.inf if frame.is_corrupt else 0)


def _compare_some(facts: VideoFacts, target: str) -> None:
    """Read frames of both as training would and check that the result matches the source."""
    wanted = np.unique(np.linspace(0, facts.num_frames - 1, _FRAMES_COMPARED).round()).astype(int)
    frames = decode.read_frames(target, wanted.tolist())
    for k, frame, original in zip(
        wanted,
        frames,
        decode.read_frames(facts.path, wanted.tolist(), limits=facts.limits),
        strict=True,
    ):
        height, width, _ = frame.shape
        source = av.VideoFrame.from_ndarray(original, format="rgb24")
        scaled: Any = source.reformat(width, height, "rgb24", interpolation="BICUBIC").to_ndarray()
        pixels = float(np.abs(scaled.astype(np.int16) - frame).mean())
        cells = float(np.abs(_grid(scaled) - _grid(frame)).mean())
        if pixels > SAME_PIXELS or cells > SAME_CELLS:
            differs = f"differs from the source by {pixels:.1f} of 255, its cells by {cells:.1f}"
            raise VideoError(facts.path, "not_verified", f"frame {k} of the result {differs}")


def _check_gain(facts: VideoFacts, result: str, min_gain: float) -> None:
    """Raise NoGain unless frames of the result decode `min_gain` times as fast as the source's."""
    before_ms, after_ms = compare_ms(facts.path, result, facts.num_frames)
    if before_ms < min_gain * after_ms:
        raise NoGain(
            f"{before_ms:.1f} ms to decode {counted(CLIP.num_segments, 'frame')}, {after_ms:.1f} ms if prepared"
        )


def _luma_grid(frame: Any) -> NDArray[np.float32]:
    """`_grid` of a decoded frame's luma: float32 [rows, columns, 1]."""
    plane = frame.planes[0]
    height, width = plane.height, plane.width
    data: Any = np.frombuffer(memoryview(plane), np.uint8, count=height * plane.line_size)
    return _grid(data.reshape(height, plane.line_size)[:, :width, None])


def _grid(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Means over up to 8 x 8 cells of [height, width, channels]: float32 [rows, columns, channels]."""
    height, width, _ = pixels.shape
    y, x = (np.arange(min(_GRID, side)) * side // min(_GRID, side) for side in (height, width))
    sums = np.add.reduceat(np.add.reduceat(pixels, y, axis=0, dtype=np.uint32), x, axis=1)
    cells = np.outer(np.diff([*y, height]), np.diff([*x, width]))
    return (sums / cells[..., None]).astype(np.float32)


def _pack_images(facts: VideoFacts, target: str) -> Prepared:
    """Write the images of a frame folder as a shard of one row, and decode all of them from it."""
    images = [
        image if isinstance(image, bytes) else _read_image_file(image)
        for image in folder.list_frames(facts.path)
    ]
    info = decode.probe(facts.path, facts.limits)
    _check_unchanged(facts, len(images), info.width, info.height)
    num_bytes = write_images(facts.path, target, images)
    packed = shard_path(target, 0)
    check = _SizeCheck(facts)
    folder.read(packed, list(range(len(images))), check, max_pixels=facts.limits.max_pixels)
    return Prepared(facts.width, facts.height, "jpeg-folder", 1, "a folder of frames", num_bytes)


class _SizeCheck:
    """Receives decoded images and checks only their size."""

    def __init__(self, facts: VideoFacts) -> None:
        self._facts = facts

    def put(self, slot: int, pixels: NDArray[np.uint8]) -> None:
        height, width, _ = pixels.shape
        _check_unchanged(self._facts, self._facts.num_frames, width, height)


def _read_image_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise VideoError(path, "unreadable", str(error.strerror)) from error

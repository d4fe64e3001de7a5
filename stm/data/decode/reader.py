"""Read the wanted frames of a source as an array: choose a decoder, collect, crop and resize."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stm.data.decode.collector import BoxesOfFrame, Collector
from stm.data.decode.memory import memory_limit
from stm.data.decode.resize import Box, BoxError, PixelBox, pixel_box
from stm.data.shards import holds_frames, is_shard_path
from stm.data.video import (
    DEFAULT_LIMITS,
    Geometry,
    Limits,
    VideoError,
    VideoInfo,
    label,
    naming_failures,
)
from stm.storage import is_url

if TYPE_CHECKING:
    from stm.data.decode.plan import PacketPlan

DECODERS = ("auto", "packets", "sequential", "decord")

Numbers = Sequence[int] | NDArray[np.int64]
Frames = Numbers | Callable[[NDArray[np.float64]], Numbers]
"""Frame numbers, or a function that chooses them from the times of all frames, float64 [N] in s from 0."""


def probe(source: Any, limits: Limits = DEFAULT_LIMITS) -> VideoInfo:
    """Return the facts of a video, from one pass over its packets and one decoded frame.

    If packets do not give the number of frames (see ``plan.py``), all frames are decoded and counted.

    Raises:
        VideoError: If no frame of the source can be decoded, or it exceeds ``limits``. Its ``reason``
            is the cause.
    """
    with naming_failures(source), memory_limit(limits.memory_bytes):
        if is_frames(source):
            from stm.data.decode import folder

            return folder.probe(source, limits.max_pixels)
        from stm.data.decode.probing import probe_video

        return probe_video(source, limits.max_pixels)


def read_frames(
    source: Any, indices: Sequence[int], decoder: str = "auto", limits: Limits = DEFAULT_LIMITS
) -> NDArray[np.uint8]:
    """Read whole frames at source resolution, as displayed.

    Args:
        source: Local path, frame folder, fsspec URL, bytes or binary file object.
        indices: Frame numbers from 0, in any order, repeats allowed.
        decoder: One of ``DECODERS``.
        limits: A source that exceeds them is refused.

    Returns:
        uint8 [K, height, width, 3], RGB, in the order of ``indices``.

    Raises:
        VideoError: If the source or a wanted frame cannot be read.
        ValueError: If ``indices`` is empty or ``decoder`` is unknown.
    """
    request = _Request(source, decoder, lambda w, h: [(0, 0, w, h)], None, None, limits)
    return request.collect(indices)[0]


def read_clip(
    source: Any,
    indices: Sequence[int],
    box: Sequence[float],
    size: int,
    decoder: str = "auto",
    limits: Limits = DEFAULT_LIMITS,
) -> NDArray[np.uint8]:
    """Crop one box from the wanted frames and resize it once, directly from source pixels.

    Args:
        source: As in ``read_frames``.
        indices: As in ``read_frames``.
        box: (left, top, width, height) in displayed source pixels; rounded by ``resize.pixel_box``.
        size: Side of the square result in pixels.
        decoder: One of ``DECODERS``.
        limits: As in ``read_frames``.

    Returns:
        uint8 [K, size, size, 3], RGB. It depends only on the frames, the box and the size.

    Raises:
        VideoError: If the source or a wanted frame cannot be read.
        ValueError: As in ``read_frames``, or if the box extends over half a pixel outside the frame.
    """
    return read_views(source, indices, [box], size, decoder, None, limits)[0]


def read_views(
    source: Any,
    indices: Frames,
    boxes: Sequence[Sequence[float]],
    size: int,
    decoder: str = "auto",
    expected: Geometry | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> NDArray[np.uint8]:
    """Crop several boxes from the same frames, decoded once: the crops of a test protocol.

    Args:
        source, size, decoder, limits: As in ``read_clip``.
        indices: As in ``read_frames``, or a function that chooses frames by their times in the file.
            If these are unreliable, and for a folder, the times follow from the rate of ``expected``,
            which is then required.
        boxes: V boxes.
        expected: The geometry for which boxes and indices were planned. A video of another size or
            length raises ``VideoError`` ``changed``.

    Returns:
        uint8 [V, K, size, size, 3]: the result of ``read_clip`` for each of the V boxes.

    Raises:
        VideoError: As in ``read_clip``, or ``changed``.
        ValueError: As in ``read_clip``, or if ``boxes`` is empty or ``size`` is less than 1.
    """
    if not len(boxes):
        raise ValueError("boxes is empty: give at least one (left, top, width, height)")
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, not {size}")
    wanted: list[Box] = [_as_box(box) for box in boxes]

    def boxes_in_frame(width: int, height: int) -> list[PixelBox]:
        return [pixel_box(box, width, height) for box in wanted]

    return _Request(source, decoder, boxes_in_frame, size, expected, limits).collect(indices)


class _Wanted:
    """Frame numbers: distinct and ascending for a decoder, and in the requested order."""

    def __init__(self, frames: Frames) -> None:
        self._choose = frames if callable(frames) else None
        if not callable(frames):
            self._take(frames)

    def _take(self, frames: Numbers) -> None:
        asked = np.array([operator.index(k) for k in frames], dtype=np.int64)
        if not len(asked):
            raise ValueError("indices is empty: give at least one frame number")
        self._order: NDArray[np.int64] | None = None
        if not (asked[1:] > asked[:-1]).all():  # np.unique takes 2 % of a JPEG clip's time
            asked, self._order = np.unique(asked, return_inverse=True)
        self._numbers: list[int] = asked.tolist()

    def numbers(self, times_s: Callable[[], NDArray[np.float64]]) -> list[int]:
        """Distinct ascending numbers; ``times_s`` is called only if the choice depends on times."""
        if self._choose is not None:
            self._take(self._choose(times_s()))
        return self._numbers

    def in_order(self, views: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bring ``views`` [V, K', ...] of the distinct frames to the requested order: [V, K, ...]."""
        return views if self._order is None else views[:, self._order]


def _as_box(box: Sequence[float]) -> Box:
    if len(box) != 4:
        raise ValueError(f"a box is (left, top, width, height), not {tuple(box)}")
    return (float(box[0]), float(box[1]), float(box[2]), float(box[3]))


@dataclass(frozen=True)
class _Request:
    """What to read from a source, except for the frame numbers."""

    source: Any
    decoder: str
    boxes_in_frame: BoxesOfFrame
    size: int | None
    expected: Geometry | None
    limits: Limits

    def collect(self, indices: Frames) -> NDArray[np.uint8]:
        """uint8 [V, K, height, width, 3], the frames in the order of ``indices``, each decoded once."""
        if self.decoder not in DECODERS:
            raise ValueError(f"decoder must be one of {', '.join(DECODERS)}, not {self.decoder!r}")
        wanted = _Wanted(indices)
        with (
            naming_failures(self.source, passing=(BoxError,)),
            memory_limit(self.limits.memory_bytes),
        ):
            return wanted.in_order(self._decode(wanted))

    def _decode(self, wanted: _Wanted) -> NDArray[np.uint8]:
        if is_frames(self.source):
            from stm.data.decode import folder

            numbers = self._checked(wanted.numbers(self._even_times))
            collector = self._collector(numbers)
            folder.read(self.source, numbers, collector, self.expected, self.limits.max_pixels)
            return collector.views()
        return self._decode_video(wanted).views()

    def _decode_video(self, choice: _Wanted) -> Collector:
        from stm.data.decode import packets
        from stm.data.decode.plan import scan
        from stm.data.decode.source import open_video

        with open_video(self.source, self.limits.max_pixels) as video:
            plan = scan(video)
            if not plan.doubt:
                self._check_length(plan.num_frames)
            wanted = self._checked(choice.numbers(self._even_times if plan.doubt else plan.times_s))
            if self.decoder == "decord" and _is_local_path(self.source):
                from stm.data.decode import decord_reader, probing

                if not probing.guard(plan):
                    collector = self._collector(wanted)
                    decord_reader.read(self.source, wanted, collector)
                    return collector
            if self.decoder == "sequential" or plan.doubt:
                return self._decode_in_sequence(plan, wanted, count=bool(plan.doubt))
            try:
                collector = self._collector(wanted)
                packets.decode(plan, wanted, self._emit(plan, wanted, collector))
                return collector
            except packets.Unsure as unsure:
                numbers_hold = unsure.numbers_hold
        # Reopen it: after damage, flushing a decoder does not restore its initial state.
        with open_video(self.source, self.limits.max_pixels) as video:
            return self._decode_in_sequence(scan(video), wanted, count=not numbers_hold)

    def _checked(self, wanted: list[int]) -> list[int]:
        if wanted[0] < 0:
            detail = f"frame {wanted[0]} was requested, but frame numbers start at 0"
            raise VideoError(label(self.source), "bad_index", detail)
        return wanted

    def _even_times(self) -> NDArray[np.float64]:
        assert self.expected is not None, "choosing frames by time requires `expected`"
        return np.arange(self.expected.num_frames) / self.expected.fps

    def _decode_in_sequence(self, plan: PacketPlan, wanted: list[int], *, count: bool) -> Collector:
        from stm.data.decode import sequential

        collector = self._collector(wanted)
        emit = self._emit(plan, wanted, collector)
        # If frames are counted, only the end of the video shows whether their number is the planned one.
        to_the_end = count and self.expected is not None
        num_frames = sequential.decode(plan, wanted, emit, count=count, to_the_end=to_the_end)
        if to_the_end:
            self._check_length(num_frames)
        return collector

    def _collector(self, wanted: list[int]) -> Collector:
        name = label(self.source)
        return Collector(name, len(wanted), self.boxes_in_frame, self.size, self.expected)

    def _emit(
        self, plan: PacketPlan, wanted: list[int], collector: Collector
    ) -> Callable[[int, Any], None]:
        from stm.data.decode.orientation import find_matrix
        from stm.data.decode.pictures import RgbConverter

        slots = {k: slot for slot, k in enumerate(wanted)}
        video = plan.video
        find_matrix(plan)
        to_rgb = RgbConverter(video.name, video.width, video.height, plan.matrix)
        return lambda k, frame: collector.put(slots[k], to_rgb(frame))

    def _check_length(self, num_frames: int) -> None:
        if self.expected is not None:
            self.expected.check_length(label(self.source), num_frames)


def is_frames(source: Any) -> bool:
    """Whether the source is a folder of images or a shard row with images."""
    if is_shard_path(source):
        return holds_frames(source)
    return isinstance(source, (str, os.PathLike)) and os.path.isdir(source)


def _is_local_path(source: Any) -> bool:
    if is_shard_path(source):
        return False
    return isinstance(source, (str, os.PathLike)) and not is_url(source)

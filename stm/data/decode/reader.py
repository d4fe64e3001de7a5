"""From a source and frame numbers to arrays: choose a decoder, collect, cut, resize."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stm.data.decode import DECODERS
from stm.data.decode.resize import Box, PixelBox, pixel_box, resize_clip
from stm.data.decode.video import VideoError, VideoInfo, label
from stm.data.shards import holds_frames, is_shard_path

BoxesOfFrame = Callable[[int, int], list[PixelBox]]


class Collector:
    """Copies the wanted part of each frame, as it is decoded, into one array.

    The part is the smallest rectangle around the boxes, so that a frame costs one copy of what is
    used of it and nothing else.
    """

    def __init__(self, name: str, num_frames: int, boxes_in_frame: BoxesOfFrame) -> None:
        self._name = name
        self._num_frames = num_frames
        self._boxes_in_frame = boxes_in_frame
        self._frame_size: tuple[int, int] | None = None
        self.boxes: list[PixelBox] = []
        """Relative to the pixels kept."""
        self.pixels = np.empty((0, 0, 0, 3), np.uint8)
        """uint8 [K, height, width, 3] of the pixels kept, filled slot by slot."""

    def put(self, slot: int, frame: NDArray[np.uint8]) -> None:
        """Keep a frame, uint8 [height, width, 3], as number ``slot`` of the result."""
        height, width, _ = frame.shape
        if self._frame_size is None:
            self._frame_size = (height, width)
            boxes = self._boxes_in_frame(width, height)
            x0, y0 = min(box[0] for box in boxes), min(box[1] for box in boxes)
            x1, y1 = max(box[2] for box in boxes), max(box[3] for box in boxes)
            self._part = (slice(y0, y1), slice(x0, x1))
            self.boxes = [(a - x0, b - y0, c - x0, d - y0) for a, b, c, d in boxes]
            self.pixels = np.empty((self._num_frames, y1 - y0, x1 - x0, 3), np.uint8)
        elif self._frame_size != (height, width):
            expected = f"{self._frame_size[1]}x{self._frame_size[0]}"
            raise VideoError(
                self._name, "unreadable", f"frames of {expected} and of {width}x{height} pixels"
            )
        self.pixels[slot] = frame[self._part]


def probe(source: Any) -> VideoInfo:
    """See ``stm.data.decode.probe``."""
    if _is_folder(source):
        from stm.data.decode import folder

        return folder.probe(source)
    from stm.data.decode.probing import probe_video

    return probe_video(source)


def read_frames(source: Any, indices: Sequence[int], decoder: str) -> NDArray[np.uint8]:
    """See ``stm.data.decode.read_frames``."""
    collected, order = _collect(source, indices, decoder, lambda w, h: [(0, 0, w, h)])
    return _in_order(collected.pixels, order)


def read_views(
    source: Any, indices: Sequence[int], boxes: Sequence[Sequence[float]], size: int, decoder: str
) -> NDArray[np.uint8]:
    """See ``stm.data.decode.read_views``."""
    if not len(boxes):
        raise ValueError("boxes is empty: name at least one (left, top, width, height)")
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, not {size}")
    wanted: list[Box] = [_as_box(box) for box in boxes]
    collected, order = _collect(
        source, indices, decoder, lambda w, h: [pixel_box(box, w, h) for box in wanted]
    )
    if len(boxes) == 1:  # nothing but the box was kept
        return _in_order(resize_clip(collected.pixels, size), order)[None]
    return np.stack(
        [
            _in_order(resize_clip(collected.pixels[:, y0:y1, x0:x1], size), order)
            for x0, y0, x1, y1 in collected.boxes
        ]
    )


def _as_box(box: Sequence[float]) -> Box:
    if len(box) != 4:
        raise ValueError(f"a box is (left, top, width, height), not {tuple(box)}")
    return (float(box[0]), float(box[1]), float(box[2]), float(box[3]))


def _in_order(frames: NDArray[np.uint8], order: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Frames of the distinct indices -> in the order asked for; no copy if it is the same."""
    if len(order) == len(frames) and np.array_equal(order, np.arange(len(order))):
        return frames
    return frames[order]


def _collect(
    source: Any,
    indices: Sequence[int],
    decoder: str,
    boxes_in_frame: BoxesOfFrame,
) -> tuple[Collector, NDArray[np.intp]]:
    """Decode each distinct frame once; return them, and the place of each of ``indices`` there."""
    if decoder not in DECODERS:
        raise ValueError(f"decoder must be one of {', '.join(DECODERS)}, not {decoder!r}")
    asked = np.array([operator.index(k) for k in indices], dtype=np.int64)
    if not len(asked):
        raise ValueError("indices is empty: ask for at least one frame")
    if (
        asked[1:] > asked[:-1]
    ).all():  # as nearly always; np.unique takes 2 % of a clip of JPEG images
        distinct, order = asked, np.arange(len(asked))
    else:
        distinct, order = np.unique(asked, return_inverse=True)
    wanted: list[int] = distinct.tolist()
    if wanted[0] < 0:
        raise VideoError(label(source), "bad_index", f"frame {wanted[0]}: frames count from 0")

    def fresh() -> Collector:
        return Collector(label(source), len(wanted), boxes_in_frame)

    if _is_folder(source):
        from stm.data.decode import folder

        return folder.read(source, wanted, fresh()), order
    return _decode(source, wanted, decoder, fresh), order


def _decode(
    source: Any, wanted: list[int], decoder: str, fresh: Callable[[], Collector]
) -> Collector:
    from stm.data.decode import packets, sequential
    from stm.data.decode.pictures import RgbConverter
    from stm.data.decode.plan import scan
    from stm.data.decode.source import OpenVideo, open_video

    def into(collector: Collector, video: OpenVideo) -> Callable[[int, Any], None]:
        to_rgb = RgbConverter(video.width, video.height)
        return lambda k, frame: collector.put(slots[k], to_rgb(frame))

    slots = {k: slot for slot, k in enumerate(wanted)}
    numbers_hold = True
    with open_video(source) as video:
        plan = scan(video)
        if decoder == "decord" and not plan.guard and _is_local_path(source):
            from stm.data.decode import decord_reader

            return decord_reader.read(source, wanted, fresh())
        collector = fresh()
        if decoder == "sequential" or plan.doubt:
            sequential.decode(plan, wanted, into(collector, video), count=bool(plan.doubt))
            return collector
        try:
            packets.decode(plan, wanted, into(collector, video))
            return collector
        except packets.Unsure as unsure:
            numbers_hold = unsure.numbers_hold
    # Opened anew: after damage, flushing a decoder does not bring it back to its first state.
    with open_video(source) as video:
        collector = fresh()
        sequential.decode(scan(video), wanted, into(collector, video), count=not numbers_hold)
        return collector


def _is_folder(source: Any) -> bool:
    if is_shard_path(source):
        return holds_frames(source)
    return isinstance(source, (str, os.PathLike)) and os.path.isdir(source)


def _is_local_path(source: Any) -> bool:
    if is_shard_path(source):
        return False
    return isinstance(source, (str, os.PathLike)) and "://" not in os.fspath(source)

"""Collect the wanted parts of decoded frames in one array."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from stm.data.decode.resize import PixelBox, resize_clip
from stm.data.video import Geometry, VideoError

BoxesOfFrame = Callable[[int, int], list[PixelBox]]

_AT_ONCE_BYTES = 2**26
"""Clips up to this size are resized at once, which is faster. Larger ones are resized frame by frame."""


class Collector:
    """Copies the wanted part of each frame, as it is decoded, into one array.

    The part is the smallest rectangle that contains all boxes. The frames of a large clip are cropped
    and resized as they arrive, so that memory does not grow with the size of the frames.

    Args:
        name: Name of the source, for errors.
        num_frames: K, the number of frames to collect.
        boxes_in_frame: Function from a frame's width and height to its V boxes in whole pixels.
        size: Side of the square that each box is resized to; None keeps the pixels of one box.
        expected: Required geometry of the frames; None accepts any.
    """

    def __init__(
        self,
        name: str,
        num_frames: int,
        boxes_in_frame: BoxesOfFrame,
        size: int | None = None,
        expected: Geometry | None = None,
    ) -> None:
        self._name = name
        self._num_frames = num_frames
        self._boxes_in_frame = boxes_in_frame
        self._size = size
        self._expected = expected
        self._frame_size: tuple[int, int] | None = None
        self._boxes: list[PixelBox] = []  # relative to the copied part
        self._pixels = np.empty((0, 0, 0, 3), np.uint8)
        self._resized: NDArray[np.uint8] | None = None

    def put(self, slot: int, frame: NDArray[np.uint8]) -> None:
        """Copy a frame, uint8 [height, width, 3], to index ``slot`` of the result.

        Raises:
            VideoError: ``unreadable`` if its size differs from the first frame's; ``changed`` if its
                size is not the expected one.
        """
        height, width, _ = frame.shape
        if self._frame_size is None:
            self._begin(width, height)
        elif self._frame_size != (width, height):
            sizes = "{}x{} and {}x{}".format(*self._frame_size, width, height)
            raise VideoError(
                self._name, "unreadable", f"its frames have different sizes: {sizes} pixels"
            )
        part = frame[self._part]
        if self._resized is None:
            self._pixels[slot] = part
            return
        assert self._size is not None
        for view, (x0, y0, x1, y1) in enumerate(self._boxes):
            self._resized[view, slot] = resize_clip(part[None, y0:y1, x0:x1], self._size)[0]

    def _begin(self, width: int, height: int) -> None:
        if self._expected is not None:
            self._expected.check_size(self._name, width, height)
        self._frame_size = (width, height)
        boxes = self._boxes_in_frame(width, height)
        x0, y0 = min(box[0] for box in boxes), min(box[1] for box in boxes)
        x1, y1 = max(box[2] for box in boxes), max(box[3] for box in boxes)
        self._part = (slice(y0, y1), slice(x0, x1))
        self._boxes = [(a - x0, b - y0, c - x0, d - y0) for a, b, c, d in boxes]
        shape = (self._num_frames, y1 - y0, x1 - x0, 3)
        if self._size is not None and math.prod(shape) > _AT_ONCE_BYTES:
            square = (self._size, self._size, 3)
            self._resized = np.empty((len(boxes), self._num_frames, *square), np.uint8)
        else:
            self._pixels = np.empty(shape, np.uint8)

    def views(self) -> NDArray[np.uint8]:
        """Return uint8 [V, K, size, size, 3]; without a size, [1, K, height, width, 3] at source resolution."""
        if self._resized is not None:
            return self._resized
        if self._size is None:
            return self._pixels[None]
        if len(self._boxes) == 1:  # only this box was copied
            return resize_clip(self._pixels, self._size)[None]
        parts = [self._pixels[:, y0:y1, x0:x1] for x0, y0, x1, y1 in self._boxes]
        return np.stack([resize_clip(part, self._size) for part in parts])

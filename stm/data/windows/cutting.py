"""Cut a sequence of frames into windows of time, and draw each window's clips as those of a video cut there.

Window k holds the frames that appear in [k * stride, k * stride + window), in seconds from the first frame of the
video. Its clips are those that ``stm predict`` takes of a video of exactly these frames: the checkpoint's own sampling,
applied to their number and their times. Times are kept as whole ticks and compared as fractions, so that no frame falls
on the wrong side of a border by rounding.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from stm.data.stream.clips import ClipSpec, frames_of_test
from stm.data.stream.plan import sample_seed

Picture = Callable[[], np.ndarray] | str
"""What makes the views of a frame, uint8 [V, S, S, 3]; or why it cannot be used."""


@dataclass(frozen=True)
class Window:
    """One window, or a stretch of windows without an answer."""

    number: int
    """k, from 0."""
    next_number: int
    """Of the window behind it: k + 1, but for a stretch of several windows."""
    start_s: float
    end_s: float
    """Seconds from the first frame; of a shorter last window the end of the video."""
    clips: np.ndarray | None
    """uint8 [N, V, T, S, S, 3]: N samplings of V crops; None where there are none."""
    why: str = ""
    """Why there are none, as "REASON: DETAIL"."""
    num_frames: int = 0
    """That appear in it."""


class Cutter:
    """Takes frames in the order in which they appear, and gives windows as soon as they are whole.

    Args:
        spec: How clips are drawn.
        window_s, stride_s: Seconds; exact as they are written in decimals.
        time_base: Seconds a tick.
        offset_s: When tick 0 is, in seconds from the first frame of the video.
        first: The first window that is wanted.
    """

    def __init__(
        self,
        spec: ClipSpec,
        window_s: float,
        stride_s: float,
        time_base: Fraction,
        *,
        offset_s: float = 0.0,
        first: int = 0,
    ) -> None:
        self._spec, self._time_base = spec, time_base
        self._window, self._stride = Fraction(str(window_s)), Fraction(str(stride_s))
        self._offset = Fraction(offset_s)
        self._frames: deque[tuple[int, Picture]] = deque()
        self._first_ticks: int | None = None
        self._last_ticks = 0
        self._num_pushed = 0
        self.number = first
        """The window that is next."""
        self._given_until = self._end(first - 1) if first else Fraction(-1)

    def __len__(self) -> int:
        """Frames that are held."""
        return len(self._frames)

    def wants(self, ticks: int) -> bool:
        """Whether a frame of this time is part of any window that is still to come."""
        time = self._seconds(ticks)
        begun = math.floor(time / self._stride)
        return begun >= self.number and time < self._end(begun)

    def push(self, ticks: int, picture: Picture) -> Iterator[Window]:
        """Take the next frame; it is not kept where no window wants it."""
        time = self._seconds(ticks)
        while time >= self._end(self.number):
            yield self._next(time)
        if self._first_ticks is None:
            self._first_ticks = ticks
        self._last_ticks, self._num_pushed = ticks, self._num_pushed + 1
        if self.wants(ticks):
            self._frames.append((ticks, picture))

    def finish(self) -> Iterator[Window]:
        """The windows that the end of the video cuts short: each that has frames which no window before it had."""
        end = self.duration_s()
        while self._frames and self._seconds(self._frames[-1][0]) >= self._given_until:
            yield self._whole(min(self._end(self.number), max(end, self._start(self.number))))

    def duration_s(self) -> Fraction:
        """When the last frame so far ends, in seconds: it is shown as long as the others are on average."""
        if self._first_ticks is None or self._num_pushed < 2:
            return self._end(self.number)
        mean = Fraction(self._last_ticks - self._first_ticks, self._num_pushed - 1)
        return self._seconds(self._last_ticks) + mean * self._time_base

    def _next(self, time: Fraction) -> Window:
        """The next window, which ends before ``time``; or a stretch of windows without frames."""
        if self._frames:
            return self._whole(self._end(self.number))
        following = max(math.floor((time - self._window) / self._stride) + 1, self.number + 1)
        number, self.number = self.number, following
        start, end = float(self._start(number)), float(self._end(following - 1))
        return Window(number, following, start, end, None, "no_frames: no frame appears in it")

    def _whole(self, end: Fraction) -> Window:
        number = self.number
        inside = [each for each in self._frames if self._seconds(each[0]) < self._end(number)]
        clips, why = self._clips(inside)
        self.number, self._given_until = number + 1, self._end(number)
        while self._frames and self._seconds(self._frames[0][0]) < self._start(self.number):
            self._frames.popleft()
        start = float(self._start(number))
        return Window(number, number + 1, start, float(end), clips, why, len(inside))

    def _clips(self, frames: list[tuple[int, Picture]]) -> tuple[np.ndarray | None, str]:
        if not frames:
            return None, "no_frames: no frame appears in it"
        clips = []
        for sampling in range(self._spec.num_samplings):
            # As of the only video on a command line.
            seed = int(sample_seed(np.asarray(0), seed=0, epoch=sampling))
            chosen = frames_of_test(len(frames), seed, self._spec, sampling)
            if callable(chosen):
                ticks = np.array([ticks for ticks, _ in frames], dtype=np.int64)
                chosen = chosen((ticks - ticks[0]) * float(self._time_base))
            pictures = []
            for k in np.asarray(chosen).tolist():
                picture = frames[k][1]
                if isinstance(picture, str):
                    return None, picture
                pictures.append(picture())
            clips.append(np.stack(pictures, axis=1))
        return np.stack(clips), ""

    def _seconds(self, ticks: int) -> Fraction:
        return self._offset + ticks * self._time_base

    def _start(self, number: int) -> Fraction:
        return number * self._stride

    def _end(self, number: int) -> Fraction:
        return number * self._stride + self._window

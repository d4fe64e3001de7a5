"""Cut a sequence of frames into windows of time, and draw each window's clips as if it were a video of its own.

Window k holds the frames that appear in [k * stride, k * stride + window), in seconds from the first frame of the
video. Its clips are those of ``stm predict`` for a video of exactly these frames: the checkpoint's sampling, applied
to their number and times. Times are whole ticks and are compared as fractions, so rounding never moves a frame into
another window.
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
"""Function that returns the views of a frame, uint8 [V, S, S, 3]; or the reason why it cannot be used."""


@dataclass(frozen=True)
class Window:
    """One window, or several consecutive windows without clips."""

    number: int
    """k, from 0."""
    next_number: int
    """Number of the following window: k + 1, or more for several windows."""
    start_s: float
    end_s: float
    """Seconds from the first frame; the end of the video for a shorter last window."""
    clips: np.ndarray | None
    """uint8 [N, V, T, S, S, 3]: N samplings of V crops; None without clips."""
    why: str = ""
    """Why there are no clips, as "REASON: DETAIL"."""
    num_frames: int = 0
    """Frames that appear in the window."""


class Cutter:
    """Receives frames in display order and yields windows as soon as they are complete.

    Args:
        spec: How clips are drawn.
        window_s, stride_s: Seconds; exact as they are written in decimals.
        time_base: Seconds per tick.
        offset_s: Time of tick 0 in seconds from the first frame of the video.
        first: Number of the first wanted window.
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
        """Number of the next window."""
        self._given_until = self._end(first - 1) if first else Fraction(-1)

    def __len__(self) -> int:
        """Number of frames held."""
        return len(self._frames)

    def wants(self, ticks: int) -> bool:
        """Whether a frame of this time is part of any later window."""
        time = self._seconds(ticks)
        begun = math.floor(time / self._stride)
        return begun >= self.number and time < self._end(begun)

    def push(self, ticks: int, picture: Picture) -> Iterator[Window]:
        """Add the next frame; it is dropped if no window needs it."""
        time = self._seconds(ticks)
        while time >= self._end(self.number):
            yield self._next(time)
        if self._first_ticks is None:
            self._first_ticks = ticks
        self._last_ticks, self._num_pushed = ticks, self._num_pushed + 1
        if self.wants(ticks):
            self._frames.append((ticks, picture))

    def finish(self) -> Iterator[Window]:
        """The windows that the end of the video cuts short, if they have frames that no earlier window had."""
        end = self.duration_s()
        while self._frames and self._seconds(self._frames[-1][0]) >= self._given_until:
            yield self._whole(min(self._end(self.number), max(end, self._start(self.number))))

    def duration_s(self) -> Fraction:
        """End of the last frame so far, in seconds; its duration is the mean of the others."""
        if self._first_ticks is None or self._num_pushed < 2:
            return self._end(self.number)
        mean = Fraction(self._last_ticks - self._first_ticks, self._num_pushed - 1)
        return self._seconds(self._last_ticks) + mean * self._time_base

    def _next(self, time: Fraction) -> Window:
        """The next window that ends before ``time``, or several windows without frames."""
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
            # The same as for a single video on a command line.
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

"""Merge the scores of windows to segments: stretches of time in which a class is seen.

A segment of a class is a run of windows that all say at least ``leave`` of it, and one of which says ``enter`` (two
thresholds, so that a score that wavers about one of them does not make many short segments). Windows overlap, and each
speaks for the time that is nearer to its middle than to those of its neighbours, so that a change from one class to the
next lies at one place. Where a window has no answer, or a stretch lies between two that no window has seen, segments
end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from stm.bounds import number
from stm.errors import UserError
from stm.results import Segment, WindowPrediction

ENTER, LEAVE = 0.5, 0.3


def segments(
    windows: Iterable[WindowPrediction],
    classes: Sequence[str],
    *,
    enter: float = ENTER,
    leave: float = LEAVE,
    min_s: float = 0.0,
) -> Iterator[Segment]:
    """The segments of windows in order of time, each as soon as its end is known.

    Those shorter than ``min_s`` are dropped. ``classes`` are the K that the windows' ``scores`` are of. Raises
    ``UserError`` for thresholds out of order.
    """
    merger = Merger(classes, enter=enter, leave=leave, min_s=min_s)
    for window in windows:
        yield from merger.push(window)
    yield from merger.finish()


class Merger:
    """`segments`, window by window. What it keeps does not grow with their number."""

    def __init__(
        self,
        classes: Sequence[str],
        *,
        enter: float = ENTER,
        leave: float = LEAVE,
        min_s: float = 0.0,
    ) -> None:
        if not 0 < leave <= enter <= 1:
            raise UserError(
                f"--enter {number(enter)} --leave {number(leave)}: must be scores, above 0 and at most 1, "
                "and --leave not above --enter"
            )
        if min_s < 0:
            raise UserError(f"--min_s {number(min_s)}: must not be negative")
        self._classes, self._enter, self._leave, self._min_s = classes, enter, leave, min_s
        num_classes = len(classes)
        self._is_open = np.zeros(num_classes, bool)
        self._starts = np.zeros(num_classes)
        self._sums = np.zeros(num_classes)
        self._peaks = np.zeros(num_classes)
        self._counts = np.zeros(num_classes, np.int64)
        self._last: WindowPrediction | None = None

    def push(self, window: WindowPrediction) -> list[Segment]:
        """Take the next window; the segments that it ends."""
        last, scores = self._last, window.scores
        ended: list[Segment] = []
        at = window.start_s
        if last is not None and window.start_s > last.end_s:  # a stretch that no window has seen
            ended = self._end(self._is_open.copy(), last.end_s)
        elif last is not None:
            at = (window.start_s + last.end_s) / 2  # as near to the middle of one as of the other
        self._last = window
        if scores is None:
            return ended + self._end(self._is_open.copy(), at)
        holds = np.asarray(scores) >= self._leave
        ended += self._end(self._is_open & ~holds, at)
        begun = holds & ~self._is_open
        self._starts[begun], self._counts[begun] = at, 0
        self._sums[begun] = self._peaks[begun] = 0.0
        self._is_open = holds
        self._counts[holds] += 1
        self._sums[holds] += scores[holds]
        self._peaks[holds] = np.maximum(self._peaks[holds], scores[holds])
        return ended

    def finish(self) -> list[Segment]:
        """The segments that the last window ends."""
        if self._last is None:
            return []
        return self._end(self._is_open.copy(), self._last.end_s)

    def _end(self, which: np.ndarray, at: float) -> list[Segment]:
        found = []
        for k in np.flatnonzero(which).tolist():
            self._is_open[k] = False
            start = float(self._starts[k])
            if self._peaks[k] >= self._enter and at - start >= self._min_s:
                found.append(
                    Segment(
                        name=self._classes[k],
                        start_s=start,
                        end_s=at,
                        score=float(self._sums[k] / self._counts[k]),
                        peak=float(self._peaks[k]),
                    )
                )
        return found

"""Lines of progress of work that is counted: how much is done, how fast, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable


class Ticker:
    """Call it with ``(done, total)``; it says a line every five seconds, and less often as the work goes on.

    Args:
        say: what takes a line.
        what: what is counted, in the plural: "videos".
    """

    def __init__(self, say: Callable[[str], None], what: str) -> None:
        self._say, self._what = say, what
        self._begun = self._said = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        took = now - self._begun
        if not done or now - self._said < max(5.0, took / 50):
            return
        self._said = now
        left_s = (total - done) * took / done
        self._say(
            f"  {done} of {total} {self._what}, {done / took:.3g} a second, {left_s:.0f} s left"
        )

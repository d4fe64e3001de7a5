"""Lines of progress for counted work: how much is done, how fast, and how long the rest will take."""

from __future__ import annotations

import time

from stm.log import get_logger

logger = get_logger(__name__)


class Ticker:
    """Call it with ``(done, total)``; it logs a line every five seconds, and less often as the work goes on.

    Args:
        what: what is counted, in the plural: "videos".
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._begun = self._logged = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        took = now - self._begun
        if not done or now - self._logged < max(5.0, took / 50):
            return
        self._logged = now
        left_s = (total - done) * took / done
        logger.info(
            f"  {done} of {total} {self._what}, {done / took:.3g} a second, {left_s:.0f} s left"
        )

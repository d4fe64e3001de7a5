"""Log the progress of counted work: the number done, the rate, and the time left."""

from __future__ import annotations

import time

from stm.log import get_logger

logger = get_logger(__name__)


class Ticker:
    """A callable for ``(done, total)`` that logs a line every 5 s, and less often the longer the work takes.

    Args:
        what: the counted things, in the plural, such as "videos".
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

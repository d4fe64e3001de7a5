"""How long to wait for a store that does not answer: a setting of the process.

    with patience(300):                     # training does, in its driver and on its workers
        read_bytes("s3://bucket/...")       # `stm.storage` tries it again for up to 5 min

An outage is told once, and so is its end. Its time counts from the first error: when it has lasted longer than the
patience, every further call fails at its first error, until one succeeds. Outside of `patience` all of them do.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from stm import ending
from stm.log import get_logger

Result = TypeVar("Result")

logger = get_logger(__name__)

SLOW_S = 30.0
"""A call that takes longer is told: it may hang, and the libraries below wait minutes before they say so."""

_SHORTEST_CALL_S, _LONGEST_CALL_S = 5.0, 60.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 8.0


@dataclass
class _Outage:
    since: float
    told: bool = False


_limit_s = 0.0
_here = threading.local()
_outages: dict[str, _Outage] = {}


@contextlib.contextmanager
def patience(seconds: float) -> Iterator[None]:
    """While the body runs, stores that do not answer are waited for so long, in every thread of this process."""
    global _limit_s
    before, _limit_s = _limit_s, seconds
    try:
        yield
    finally:
        _limit_s = before


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """In the body, and in this thread alone, nothing is waited for."""
    before, _here.at_once = getattr(_here, "at_once", False), True
    try:
        yield
    finally:
        _here.at_once = before


def is_set() -> bool:
    """Whether this process waits for stores at all, be it not in every call."""
    return _limit_s > 0


def call_s() -> float:
    """How long a store may say nothing within one call: a part of the patience, as an outage begins with such a call,
    may end with one, and others wait for this process meanwhile."""
    return min(max(_limit_s / 4, _SHORTEST_CALL_S), _LONGEST_CALL_S)


def limit_s() -> float:
    """How long this thread waits for a store."""
    ends = ending.received() is not None  # a command that a signal ends waits for nothing
    return 0.0 if ends or getattr(_here, "at_once", False) else _limit_s


def forget() -> None:
    """Have outages that have lasted too long be waited for once more."""
    _outages.clear()


def insist(store: str, what: str, call: Callable[[], Result], away: type[Exception]) -> Result:
    """``call()``, tried again while it raises ``away``; raises that when ``store`` has been away for too long.

    ``what`` is being done, for the log, such as "s3://bucket/a is being read".
    """
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            with _telling(what):
                result = call()
        except away as error:
            now, limit = time.monotonic(), limit_s()
            if limit == 0:
                raise
            outage = _outages.setdefault(store, _Outage(now))
            left_s = outage.since + limit - now
            if left_s <= 0:
                raise
            if not outage.told:
                outage.told = True
                logger.warning(
                    f"{store} does not answer ({getattr(error, 'strerror', None) or error}); trying again for "
                    f"{_duration(left_s)}"
                )
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            continue
        outage_over = _outages.pop(store, None)
        if outage_over is not None and outage_over.told:
            logger.info(
                f"{store} answers again, after {time.monotonic() - outage_over.since:.0f} s"
            )
        return result


@contextlib.contextmanager
def _telling(what: str) -> Iterator[None]:
    if not is_set():
        yield
        return
    timer = threading.Timer(SLOW_S, logger.info, [f"{what} for {SLOW_S:.0f} s now"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"

"""Wait for a store that does not answer, for a time that is set for the whole process.

    with patience(300):                     # training does this in its driver and on its workers
        read_bytes("s3://bucket/...")       # `stm.storage` retries this for up to 5 min

The begin and the end of an outage are logged once. Its time counts from the first error. When it has lasted longer than
the patience, every further call fails at its first error, until one succeeds. Outside `patience`, every call does.
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
"""Seconds after which a call is logged as slow; it may hang, and the libraries below report that only after minutes."""

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
    """While the body runs, every thread of this process waits up to ``seconds`` for a store that does not answer."""
    global _limit_s
    before, _limit_s = _limit_s, seconds
    try:
        yield
    finally:
        _limit_s = before


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """While the body runs, this thread does not wait for stores."""
    before, _here.at_once = getattr(_here, "at_once", False), True
    try:
        yield
    finally:
        _here.at_once = before


def is_set() -> bool:
    """Return whether this process waits for stores, at least in some calls."""
    return _limit_s > 0


def call_s() -> float:
    """Return how long one call waits for a silent store, in seconds.

    It is a part of the patience, because an outage may begin and end with such a call while other processes wait.
    """
    return min(max(_limit_s / 4, _SHORTEST_CALL_S), _LONGEST_CALL_S)


def limit_s() -> float:
    """Return how long this thread waits for a store, in seconds."""
    ends = ending.received() is not None  # after a signal, the command does not wait
    return 0.0 if ends or getattr(_here, "at_once", False) else _limit_s


def forget() -> None:
    """Forget the outages, so that the next call waits for its store again."""
    _outages.clear()


def insist(store: str, what: str, call: Callable[[], Result], away: type[Exception]) -> Result:
    """Return ``call()``, retried while it raises ``away``; re-raise that when ``store`` has been away for too long.

    ``what`` describes the call for the log, such as "s3://bucket/a is being read".
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

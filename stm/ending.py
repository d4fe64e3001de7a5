"""How a command ends where a signal asks it to: in order, with what is to be kept, and with the signal's exit status.

    with by_signals():              # the command line does this, around a verb
        with keeping(checkpoint):   # training does this, while there is something to keep
            ...                     # SIGTERM: `checkpoint(30.0)` is called, and then `Ended` raised here

SIGTERM, SIGHUP and Ctrl-C raise `Ended` in the main thread; the first two ask for what is to be kept before. Signals
that follow within ``AGAIN_S`` change nothing, so that an end is not cut by impatience; but one that comes while
something is being kept ends the wait. A command that has not ended ``LIMIT_S`` after its signal is left as it is.

`Ended` may be raised between any two instructions. Where it would be lost (in ``__del__``, a callback of a weak
reference or of a fork) or leave a lock of ``logging`` held, the signal comes again a moment later.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from stm.log import get_logger

logger = get_logger(__name__)

KEEP_S = 30.0
"""So long a signal waits for what is to be kept. Slurm kills 30 s after SIGTERM, `docker stop` after 10 s: both can be
told to wait longer."""

AGAIN_S = 10.0
"""So long after a signal the next ones change nothing."""

LIMIT_S = 90.0
"""After so long a command that does not come to its end is left by its process."""

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)

_MOMENT_S = 0.05
"""After so long a signal comes again that came where it would have been lost."""

_MOST_PUT_OFF = 40
"""So often a signal comes again because a line was being logged."""

_SAME_S = 0.5
"""What ends two processes at once does it within this time."""

Keep = Callable[[float], None]
"""Keeps what is to be kept, in so many seconds at most."""


class Ended(KeyboardInterrupt):
    """A signal ended the command. Its notes say what became of the work."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.number = number


def status_of(error: KeyboardInterrupt) -> int:
    """Exit status of a command that ended so: 128 and the number of the signal."""
    return 128 + _number_of(error)


def told(error: KeyboardInterrupt) -> str:
    """How the command ended and what became of the work, as a line."""
    number = _number_of(error)
    how = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    return "; ".join([how, *getattr(error, "__notes__", [])])


def _number_of(error: KeyboardInterrupt) -> int:
    """Where `Ended` is raised in a call to Ray, Ray makes a bare KeyboardInterrupt of it."""
    return getattr(error, "number", None) or received() or signal.SIGINT


class _Command:
    """What this process does about signals while it runs a command."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.keep: Keep | None = None
        self.stop: Callable[[], bool] | None = None
        self._waits = False
        self._raised_at = 0.0
        self._process = os.getpid()
        self._lost = False
        self._put_off = 0

    def handle(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:  # a child that was forked and is not yet what it is to be
            os._exit(128 + number)
        if _is_in_logging(frame) and self._put_off < _MOST_PUT_OFF:  # else a stream takes nothing
            self._put_off += 1
            self._once_more(number)
            return
        if self._lost:
            self._lost = False
            self._raise(self.number or number)
        if self.number is not None:
            # A second signal gives up what is being kept.
            if self._waits or time.monotonic() - self._raised_at > AGAIN_S:
                self._raise(self.number)
            return
        self.number = number
        threading.Thread(target=self._limit, args=(number,), name="limit", daemon=True).start()
        self._raised_at = time.monotonic()
        if self.stop is not None:
            self._waits = True
            stopped = self.stop()
            self._waits = False
            if stopped:
                return
        if self.keep is not None and number != signal.SIGINT:
            self._waits = True
            try:
                self.keep(KEEP_S)
            except Exception as error:  # whatever it is, the command ends
                logger.warning(f"nothing could be kept: {error}")
        self._raise(number)

    def _raise(self, number: int) -> None:
        self._waits, self._raised_at = False, time.monotonic()
        raise Ended(number)

    def lost(self, unraisable: Any) -> bool:
        """Whether Python has dropped what was raised here; then it is raised once more."""
        if not isinstance(unraisable.exc_value, Ended):
            return False
        self._lost = True
        self._once_more(unraisable.exc_value.number)
        return True

    def _once_more(self, number: int) -> None:
        again = threading.Timer(_MOMENT_S, os.kill, (self._process, number))
        again.daemon = True
        again.start()

    def _limit(self, number: int) -> None:
        time.sleep(KEEP_S + LIMIT_S)
        print(
            f"stm: no end within {KEEP_S + LIMIT_S:g} s: its process exits now",
            file=sys.stderr,
            flush=True,
        )
        os._exit(128 + number)


def _is_in_logging(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == logging.__file__:
            return True
        frame = frame.f_back
    return False


_command: _Command | None = None


@contextlib.contextmanager
def by_signals() -> Iterator[None]:
    """While the body runs, signals raise `Ended` in it; those that the process was told to ignore stay ignored.

    A process that got one is about to end: it ignores further ones from then on. Does nothing outside the main thread.
    """
    global _command
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outer, _command = _command, _Command()
    command, dropped = _command, sys.unraisablehook
    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = [number for number in SIGNALS if before[number] != signal.SIG_IGN]
    for number in taken:
        signal.signal(number, _command.handle)
    sys.unraisablehook = lambda unraisable: command.lost(unraisable) or dropped(unraisable)
    try:
        yield
    finally:
        sys.unraisablehook = dropped
        ended = _command.number is not None
        for number in taken:
            signal.signal(number, signal.SIG_IGN if ended else before[number])
        _command = outer


@contextlib.contextmanager
def keeping(keep: Keep) -> Iterator[None]:
    """While the body runs, SIGTERM and SIGHUP call ``keep(seconds)`` before they end the command."""
    command = _command
    if command is None:
        yield
        return
    outer, command.keep = command.keep, keep
    try:
        yield
    finally:
        command.keep = outer


@contextlib.contextmanager
def stopping(stop: Callable[[], bool]) -> Iterator[None]:
    """While the body runs, a signal calls ``stop()``; where that is True, the body ends by itself.

    A second signal raises `Ended` in ``stop``.
    """
    command = _command
    if command is None:
        yield
        return
    outer, command.stop = command.stop, stop
    try:
        yield
    finally:
        command.stop = outer


def with_process(process: int, still: Callable[[], bool], why: str) -> None:
    """From now on the command ends where a process ends that it cannot do without, while ``still()``: with ``why`` and
    status 2, or as by a signal where one has come. Does nothing in a program that is not ours, or where the system does
    not tell of ends."""
    command, opened = _command, getattr(os, "pidfd_open", None)
    if command is None or opened is None:
        return
    try:
        end = opened(process)
    except OSError:
        return

    def watch() -> None:
        with contextlib.closing(os.fdopen(end)):
            select.select([end], [], [])
        time.sleep(_SAME_S)  # a signal to all processes comes to us as well
        if _command is not command or not still():
            return
        number = command.number
        said = why if number is None else f"ended by {signal.Signals(number).name}; {why}"
        print(f"stm: {said}", file=sys.stderr, flush=True)
        os._exit(2 if number is None else 128 + number)

    threading.Thread(target=watch, name="with process", daemon=True).start()


def received() -> int | None:
    """The signal that this command has got."""
    return None if _command is None else _command.number

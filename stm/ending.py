"""End a command on a signal: save its work, end in order, and exit with the status of the signal.

    with by_signals():              # the command line does this, around a verb
        with keeping(checkpoint):   # training does this, while there is something to save
            ...                     # on SIGTERM, `checkpoint(30.0)` is called, then `Ended` is raised here

SIGTERM, SIGHUP and Ctrl-C raise `Ended` in the main thread; SIGTERM and SIGHUP save the work first. A further signal
within ``AGAIN_S`` is ignored, so that impatience does not interrupt the end, unless work is being saved: then it stops
the saving. A process that still runs ``KEEP_S + LIMIT_S`` after the signal exits at once.

`Ended` may be raised between any two instructions. If it would be lost (in ``__del__``, or a callback of a weak
reference or of a fork) or leave a lock of ``logging`` held, the process sends itself the signal again a moment later.
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
"""Seconds that saving may take after a signal. Slurm kills 30 s after SIGTERM and `docker stop` after 10 s; both times
can be configured."""

AGAIN_S = 10.0
"""Seconds after a signal in which further ones are ignored."""

LIMIT_S = 90.0
"""Seconds, beyond `KEEP_S`, after which the process exits even if the command has not ended."""

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)

_MOMENT_S = 0.05
"""Seconds after which a signal that could not be handled is sent again."""

_MOST_PUT_OFF = 40
"""How often a signal is sent again because a line was being logged."""

_SAME_S = 0.5
"""Seconds within which a signal to several processes reaches all of them."""

Keep = Callable[[float], None]
"""Saves the work, in at most this number of seconds."""


class Ended(KeyboardInterrupt):
    """A signal ended the command. The notes of the exception tell what happened to the work."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.number = number


def status_of(error: KeyboardInterrupt) -> int:
    """Return the exit status of a command that ended with this error: 128 plus the number of the signal."""
    return 128 + _number_of(error)


def told(error: KeyboardInterrupt) -> str:
    """Return a line that tells how the command ended and what happened to the work."""
    number = _number_of(error)
    how = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    return "; ".join([how, *getattr(error, "__notes__", [])])


def _number_of(error: KeyboardInterrupt) -> int:
    """Return the signal's number, also if Ray has replaced an `Ended` with a bare KeyboardInterrupt."""
    return getattr(error, "number", None) or received() or signal.SIGINT


class _Command:
    """The handling of signals while this process runs a command."""

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
        if os.getpid() != self._process:  # a forked child that has not called exec yet
            os._exit(128 + number)
        if _is_in_logging(frame) and self._put_off < _MOST_PUT_OFF:  # a stream may block
            self._put_off += 1
            self._once_more(number)
            return
        if self._lost:
            self._lost = False
            self._raise(self.number or number)
        if self.number is not None:
            # A second signal stops the saving.
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
            except Exception as error:  # the command ends after any error
                logger.warning(f"the work could not be saved: {error}")
        self._raise(number)

    def _raise(self, number: int) -> None:
        self._waits, self._raised_at = False, time.monotonic()
        raise Ended(number)

    def lost(self, unraisable: Any) -> bool:
        """If Python has dropped an `Ended`, send the signal again and return True."""
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
            f"stm: the command did not end within {KEEP_S + LIMIT_S:g} s of the signal; its process exits now",
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
    """While the body runs, signals raise `Ended` in it; signals that the process ignored before stay ignored.

    If a signal arrived, the process ignores all further ones after the body. Does nothing outside the main thread.
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
    """While the body runs, a signal calls ``stop()``; if that returns True, the body ends by itself.

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
    """From now on, end the command when a process that it needs ends while ``still()`` is true.

    The command prints ``why`` and exits with status 2, or with a signal's status if it received one. Does nothing
    outside a command of stm, or if the system has no ``pidfd_open``.
    """
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
        time.sleep(_SAME_S)  # a signal to all processes reaches this one too
        if _command is not command or not still():
            return
        number = command.number
        said = why if number is None else f"ended by {signal.Signals(number).name}; {why}"
        print(f"stm: {said}", file=sys.stderr, flush=True)
        os._exit(2 if number is None else 128 + number)

    threading.Thread(target=watch, name="with process", daemon=True).start()


def received() -> int | None:
    """Return the number of the signal that this command received, or None."""
    return None if _command is None else _command.number

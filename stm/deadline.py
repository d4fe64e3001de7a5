"""Deadlines for calls that may never return, such as a connection to a host that does not exist."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

_abandoned: list[threading.Thread] = []


class Late(Exception):
    """No answer within the deadline."""


class Call:
    """A function that runs in a thread of its own."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._outcome: list[object] = []
        self._error: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(function,), daemon=True)
        self._thread.start()

    def _run(self, function: Callable[[], object]) -> None:
        try:
            self._outcome.append(function())
        except BaseException as error:  # raised again by `wait`
            self._error.append(error)

    def wait(self, seconds: float) -> object:
        """Return or raise what the function did. Raises ``Late`` if it has not ended after ``seconds``."""
        _abandoned.append(self._thread)  # first, since a signal may end the wait
        self._thread.join(seconds)
        if self._error:
            raise self._error[0]
        if not self._outcome:
            raise Late(f"no answer within {seconds:g} s")
        return self._outcome[0]


def within(seconds: float, function: Callable[[], Result]) -> Result:
    """Call ``function`` in a thread and return its result. Raises ``Late`` if it has not ended after ``seconds``.

    The thread cannot be ended, and continues in the background (see ``anything_stuck``).
    """
    return Call(function).wait(seconds)  # type: ignore[return-value]


def anything_stuck() -> bool:
    """Whether an abandoned call still runs; the interpreter may wait for it when it exits."""
    _abandoned[:] = [thread for thread in _abandoned if thread.is_alive()]
    return bool(_abandoned)

"""Report long waits and what they wait for."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator


class WaitMonitor:
    """Calls ``on_wait(seconds waited)`` when a ``waiting()`` block has lasted ``after_s``, and again when that time
    has doubled or after another five minutes.

    ``on_wait`` runs in a thread of the monitor while the block still waits; its exceptions are dropped.
    """

    def __init__(self, on_wait: Callable[[float], None], after_s: float = 60.0) -> None:
        self._on_wait, self._after_s = on_wait, after_s
        self._since: float | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="wait monitor", daemon=True)
        self._thread.start()

    def __enter__(self) -> WaitMonitor:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None

    def _watch(self) -> None:
        told_at = self._after_s
        while not self._closed.wait(min(1.0, self._after_s / 4)):
            since = self._since
            waited = time.monotonic() - since if since is not None else 0.0
            if waited < self._after_s:
                told_at = self._after_s
            elif waited >= told_at:
                told_at = min(2 * waited, waited + 300)
                with contextlib.suppress(Exception):
                    self._on_wait(waited)

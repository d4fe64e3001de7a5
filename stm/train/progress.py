"""Progress from the workers to the terminal: a small actor that rank 0 posts to and the driver drains.

Worker output is not forwarded through Ray's logs: those mix with the result on stdout, repeat once a rank, and carry
Ray's own chatter.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

Event = dict[str, Any]


class _Board:
    """Actor: holds what was posted and not yet read."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def post(self, event: Event) -> None:
        self._events.append(event)

    def drain(self) -> list[Event]:
        events, self._events = self._events, []
        return events


@contextlib.contextmanager
def board(show: Callable[[Event], None], interval_s: float = 0.5) -> Iterator[Any]:
    """Yield an actor handle with ``post.remote(event)``; every event reaches ``show`` in this process, in order.

    A board that died (its node left) ends the display, not the run.
    """
    import ray

    actor: Any = ray.remote(num_cpus=0)(_Board).remote()
    done = threading.Event()

    def poll() -> None:
        while True:
            last = done.wait(interval_s)
            try:
                for event in ray.get(actor.drain.remote(), timeout=10):
                    show(event)
            except Exception:
                return
            if last:
                return

    thread = threading.Thread(target=poll, name="progress", daemon=True)
    thread.start()
    try:
        yield actor
    finally:
        done.set()
        thread.join(timeout=15)
        ray.kill(actor)

"""Hands the events of a run to the user's function, which may raise, be slow or hang: the run goes on."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator

from stm.log import get_logger
from stm.train.events import Event

logger = get_logger(__name__)

PATIENCE_S = 15.0
"""So long the function may take, at the end of the run, until it begins with the next event."""


@contextlib.contextmanager
def listening(on_event: Callable[[Event], None] | None) -> Iterator[Callable[[Event], None]]:
    """Yield a function that takes an event and returns at once; ``on_event`` gets it in a thread, in order.

    At the end of the body what is left is handed over. What ``on_event`` raises is logged, once for each message; an
    event that it does not return from is the last that it gets.
    """
    if on_event is None:
        yield lambda event: None
        return
    waiting: queue.Queue[Event | None] = queue.Queue()
    told: set[str] = set()

    def run() -> None:
        while (event := waiting.get()) is not None:
            try:
                on_event(event)
            except (
                BaseException
            ) as error:  # SystemExit, too: it would end this thread without a word
                said = f"{type(error).__name__}: {error}"
                if said not in told:
                    told.add(said)
                    logger.warning(
                        f"on_event raised {said}, on {type(event).__name__}; the run goes on"
                    )

    thread = threading.Thread(target=run, name="on_event", daemon=True)
    thread.start()
    try:
        yield waiting.put
    finally:
        waiting.put(None)
        left = waiting.qsize() + 1
        while thread.is_alive() and waiting.qsize() < left:
            left = waiting.qsize()
            thread.join(PATIENCE_S)
        if thread.is_alive():
            logger.warning(
                f"on_event has not returned for {PATIENCE_S:g} s: {max(left - 1, 0)} later events were not handed over"
            )

"""Passes the events of a run to the user's function. The run goes on if it raises, is slow or hangs."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator

from stm.log import get_logger
from stm.plural import counted
from stm.train.events import Event

logger = get_logger(__name__)

PATIENCE_S = 15.0
"""How long the function may take for one event at the end of the run."""


@contextlib.contextmanager
def listening(on_event: Callable[[Event], None] | None) -> Iterator[Callable[[Event], None]]:
    """Yield a function that accepts an event and returns at once; ``on_event`` gets events in a thread, in order.

    At the end of the body the remaining events are handed over. What ``on_event`` raises is logged, once per message.
    If it does not return from an event, it gets no further events.
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
            except BaseException as error:  # also SystemExit, which would end this thread silently
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
                f"on_event has not returned for {PATIENCE_S:g} s; not handed over: "
                f"{counted(max(left - 1, 0), 'later event')}"
            )

"""The notice that a sweep is about to end: each trial saves a checkpoint before it ends.

with open_notice() as notice:            # the driver
    Listener(notice, "t1", keep)         # in each trial: `keep(seconds)` is called when the notice comes
    give(notice, 30.0)                   # the driver again: returns the trials that saved nothing in that time
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from stm.log import get_logger

logger = get_logger(__name__)

KEEP_S = 30.0
"""How long a trial may take to save its checkpoint."""


class _Notice:
    """Actor that stores whether the notice was given, and which trials have not answered it."""

    def __init__(self) -> None:
        self._given = asyncio.Event()
        self._open: set[str] = set()

    async def wait(self, trial: str) -> None:
        self._open.add(trial)
        await self._given.wait()

    async def done(self, trial: str) -> None:
        """Note that the trial has saved its checkpoint, or has ended."""
        self._open.discard(trial)

    async def give(self) -> None:
        self._given.set()

    async def unanswered(self) -> list[str]:
        return sorted(self._open)


@contextlib.contextmanager
def open_notice() -> Iterator[Any]:
    """Yield an actor on this process's node; trials wait for its notice."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    made: Any = ray.remote(_Notice)
    actor = made.options(num_cpus=0, max_concurrency=1000, scheduling_strategy=here).remote()
    try:
        yield actor
    finally:
        with contextlib.suppress(Exception):  # the cluster may be gone, with the actor
            ray.kill(actor)


def give(notice: Any, seconds: float) -> list[str]:
    """Give the notice, and return the trials that did not answer in time. It calls Ray: not for signal handlers."""
    import ray

    deadline = time.monotonic() + seconds
    ray.get(notice.give.remote(), timeout=seconds)
    while left := ray.get(notice.unanswered.remote(), timeout=seconds):
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return list(left)


class Listener:
    """Calls ``keep(seconds)`` in its own thread when the notice comes, and reports when that is done."""

    def __init__(self, notice: Any, trial: str, keep: Callable[[float], None]) -> None:
        self._notice, self._trial, self._keep = notice, trial, keep
        threading.Thread(target=self._listen, name="notice", daemon=True).start()

    def close(self) -> None:
        """Report that the trial has ended, so that `give` does not wait for it."""
        self._notice.done.remote(self._trial)

    def _listen(self) -> None:
        import ray

        with contextlib.suppress(Exception):  # the sweep ended without a notice
            ray.get(self._notice.wait.remote(self._trial))
            self._keep(KEEP_S)
            self.close()

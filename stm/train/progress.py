"""Passes progress from the workers to the driver, through a small actor that ranks post to and the driver drains.

There are two kinds of messages. Events (steps taken, an epoch done, a checkpoint saved) come from rank 0 and are
handled in order. Pulses report every few seconds what each rank is doing; only the last of each rank counts.

Worker output is not forwarded through Ray's logs: they mix with the result on stdout, repeat each line once per rank,
and contain Ray's own messages.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from stm.log import get_logger
from stm.train.events import Event, Failed, Logged, Started

logger = get_logger(__name__)

Pulses = list[dict[str, Any]]

SHORT_S = 5.0
"""No rank is reported as slow in a shorter window: writing one checkpoint could take as long."""


class _Board:
    """Actor that holds messages until the driver reads them, and counts the driver's requests for a checkpoint."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._pulses: Pulses = []
        self._process = os.getpid()
        self._checkpoints_asked = 0

    def ask_for_checkpoint(self) -> None:
        self._checkpoints_asked += 1

    def checkpoints_asked(self) -> int:
        return self._checkpoints_asked

    def post(self, event: Event) -> None:
        self._events.append(event)

    def pulse(self, pulse: dict[str, Any]) -> None:
        self._pulses.append(pulse)

    def drain(self) -> tuple[list[Event], Pulses, int]:
        """Return the messages since the last call, and the process id: a new process has lost earlier messages."""
        drained = self._events, self._pulses, self._process
        self._events, self._pulses = [], []
        return drained


@contextlib.contextmanager
def board(
    handle: Callable[[Event], None],
    interval_s: float = 0.5,
    catch_up: Callable[[], None] | None = None,
) -> Iterator[Any]:
    """Yield an actor handle with ``post.remote(event)`` and ``pulse.remote(pulse)``.

    ``handle`` is called with every event in this process, in order. Silent and slow ranks are named in the log. The
    actor lives on this process's node, so it is lost only with the driver. If its process dies, Ray restarts it behind
    the same handle. The messages that it held are then lost: a warning is logged, and ``catch_up`` is called.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    anew = {"max_restarts": -1, "max_task_retries": -1}  # calls made meanwhile wait
    made: Any = ray.remote(_Board).options(num_cpus=0, scheduling_strategy=here, **anew)
    actor = made.remote()
    done = threading.Event()
    watch = RankWatch()

    def poll() -> None:
        process, asked = 0, None
        while True:
            last = done.wait(interval_s)
            try:
                asked = asked or actor.drain.remote()
                events, pulses, now_in = ray.get(asked, timeout=10)
                asked = None
            except (
                ray.exceptions.GetTimeoutError
            ):  # keep waiting for it: a second call would lose its answer
                if last:
                    return
                continue
            except Exception:
                asked = None
                if last:
                    return
                continue
            if process not in (0, now_in):
                logger.warning(
                    f"the process that passes progress on (process {process}) died and was started again; lines of "
                    "progress may be missing, the record is taken from the checkpoints"
                )
                if catch_up is not None:
                    _guarded(catch_up)
            process = now_in
            for event in events:
                if isinstance(event, Failed | Started):
                    watch.forget(until_start=isinstance(event, Failed))
                _guarded(handle, event)
            watch.see(pulses)
            for warning in watch.check():
                logger.warning(warning)
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


def _guarded(handle: Callable[..., None], *given: Any) -> None:
    """Call ``handle`` and log what it raises, so that one bad event does not stop all later ones."""
    try:
        handle(*given)
    except Exception as error:
        logger.warning(f"progress could not be handled: {type(error).__name__}: {error}")


class BoardHandler(logging.Handler):
    """Sends log records of a worker to the driver, which logs them under the same logger name."""

    def __init__(self, board: Any) -> None:
        super().__init__()
        self._board: Any = board
        self._sent: Any = None

    def emit(self, record: logging.LogRecord) -> None:
        if self._board is None:
            return
        line = Logged(message=record.getMessage(), level=record.levelno, logger=record.name)
        self._sent = self._board.post.remote(line)

    def flush(self) -> None:
        """Wait until the last line has arrived, for 10 s at most."""
        import ray

        if self._sent is not None and ray.is_initialized():
            with contextlib.suppress(Exception):
                ray.get(self._sent, timeout=10)


class Pulse:
    """Reports every ``interval_s`` what this rank is doing. It uses a thread, so that a stuck rank still reports."""

    def __init__(self, actor: Any, rank: int, interval_s: float = 2.0) -> None:
        self._actor, self._rank, self._interval_s = actor, rank, interval_s
        self._state: tuple[int, str, float] = (0, "starting", time.monotonic())
        self._closed = threading.Event()
        if actor is not None:
            threading.Thread(target=self._beat, name="pulse", daemon=True).start()

    def doing(self, what: str, step: int) -> None:
        """Note that this rank is now doing ``what``, in step ``step``."""
        self._state = (step, what, time.monotonic())

    def close(self) -> None:
        self._closed.set()

    def _beat(self) -> None:
        import ray

        who = {"rank": self._rank, "pid": os.getpid(), "node": ray.util.get_node_ip_address()}
        while not self._closed.wait(self._interval_s):
            step, doing, since = self._state
            with contextlib.suppress(Exception):
                self._actor.pulse.remote(
                    {**who, "step": step, "doing": doing, "for_s": time.monotonic() - since}
                )


class RankWatch:
    """Names ranks that are silent (a frozen process, a lost node) or keep the others waiting."""

    def __init__(self, silent_s: float = 30.0, stuck_s: float = 120.0) -> None:
        self._silent_s, self._stuck_s = silent_s, stuck_s
        self._last: dict[int, dict[str, Any]] = {}
        self._heard: dict[int, float] = {}
        self._told: dict[tuple[int, str], float] = {}
        self._between = False

    def forget(self, until_start: bool = False) -> None:
        """Drop all pulses, because the workers were restarted or, with ``until_start``, have failed and will be."""
        self._last, self._heard, self._told = {}, {}, {}
        self._between = until_start

    def see(self, pulses: Pulses, now: float | None = None) -> None:
        if self._between:
            return
        for pulse in pulses:
            self._last[pulse["rank"]] = pulse
            self._heard[pulse["rank"]] = time.monotonic() if now is None else now

    def check(self, now: float | None = None) -> list[str]:
        """Return the warnings that are due. A lasting state is reported again each time its duration has doubled."""
        now = time.monotonic() if now is None else now
        said = []
        first = min((pulse["step"] for pulse in self._last.values()), default=0)
        for rank, pulse in sorted(self._last.items()):
            silent = now - self._heard[rank]
            stuck = pulse["for_s"] + silent
            who = f"rank {rank} (process {pulse['pid']} on {pulse['node']})"
            if silent >= self._silent_s:
                if self._is_news(rank, "silent", silent):
                    said.append(
                        f"{who} has been silent for {silent:.0f} s; it was {pulse['doing']}, step "
                        f"{pulse['step']}. The other ranks cannot go on without it"
                    )
            elif (
                stuck >= self._stuck_s
                and pulse["step"] == first
                and self._is_news(rank, "stuck", stuck)
            ):
                said.append(f"{who} has been {pulse['doing']} for {stuck:.0f} s, step {first}")
        return said

    def _is_news(self, rank: int, what: str, lasted: float) -> bool:
        if lasted < 2 * self._told.get((rank, what), 0.0):
            return False
        self._told[rank, what] = lasted
        return True


def slow_rank(
    data_wait_s: Sequence[float], sync_wait_s: Sequence[float], total_s: float
) -> str | None:
    """Describe which rank delayed the others over ``total_s`` seconds, and how; None if no rank stands out.

    ``data_wait_s`` is how long each rank waited for its clips. ``sync_wait_s`` is how long it then waited for the
    others to begin the step: all ranks wait for the slowest, which does not wait. Both have one entry per rank.
    """
    if len(data_wait_s) < 2 or total_s < SHORT_S:
        return None
    slowest = max(range(len(data_wait_s)), key=data_wait_s.__getitem__)
    others = max(wait for rank, wait in enumerate(data_wait_s) if rank != slowest)
    if data_wait_s[slowest] > 0.25 * total_s and data_wait_s[slowest] > 3 * others:
        share = data_wait_s[slowest] / total_s
        return f"rank {slowest} waits for its clips {share:.0%} of the time, the others {others / total_s:.0%} at most"
    slowest = min(range(len(sync_wait_s)), key=sync_wait_s.__getitem__)
    least = min(wait for rank, wait in enumerate(sync_wait_s) if rank != slowest)
    if least > 0.25 * total_s and least > 3 * sync_wait_s[slowest]:
        return f"rank {slowest} is slow: every other rank waits for it {least / total_s:.0%} of the time or more"
    return None

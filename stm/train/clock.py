"""How long a device computes: by its own clock, for what a GPU is given returns at once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import torch


class StepClock:
    """Seconds of the device between the beginnings and the ends of steps."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Around what a step gives the device. Nothing waits for it."""
        if self._device.type != "cuda":
            began = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - began
            return
        began_there, ended_there = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        stream = torch.cuda.current_stream(self._device)
        began_there.record(stream)
        yield
        ended_there.record(stream)
        self._events.append((began_there, ended_there))

    def take(self) -> Callable[[], float]:
        """The seconds since the last call, as a function, which waits until those steps are over."""
        seconds, self._seconds = self._seconds, 0.0
        events, self._events = self._events, []

        def taken() -> float:
            if events:
                events[-1][1].synchronize()
            return seconds + sum(began.elapsed_time(ended) for began, ended in events) / 1000

        return taken


def share_waited(waited_s: float, computed_s: float, total_s: float) -> float:
    """The share of a stretch of steps in which the device stood still for want of clips.

    Args:
        waited_s: the process waited for clips; a GPU may have been computing meanwhile.
        computed_s: the device computed.
        total_s: the stretch, with what else was done in it.
    """
    starved_s = min(waited_s, max(total_s - computed_s, 0.0))
    return starved_s / max(starved_s + computed_s, 1e-9)

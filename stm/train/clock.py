"""Measures how long a device computes. On a GPU it uses CUDA events, because kernel launches return at once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import torch


class StepClock:
    """Adds up the seconds that the device spends in steps."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Wrap the work of a step. This does not synchronise with the device."""
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
        """Return a function that waits for the steps since the last call to end and returns their seconds."""
        seconds, self._seconds = self._seconds, 0.0
        events, self._events = self._events, []

        def taken() -> float:
            if events:
                events[-1][1].synchronize()
            return seconds + sum(began.elapsed_time(ended) for began, ended in events) / 1000

        return taken


def share_waited(waited_s: float, computed_s: float, total_s: float) -> float:
    """The share of time in which the device was idle because it waited for clips.

    Args:
        waited_s: seconds that the process waited for clips; a GPU may have computed meanwhile.
        computed_s: seconds that the device computed.
        total_s: wall-clock seconds of these steps, including all other work.
    """
    starved_s = min(waited_s, max(total_s - computed_s, 0.0))
    return starved_s / max(starved_s + computed_s, 1e-9)

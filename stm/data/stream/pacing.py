"""The pace of a Ray Data execution, and the CPUs it may use.

A step of Ray 2.60's scheduling loop takes some milliseconds of CPU, mostly to sum up resource usage, even without
work. When backpressure holds all input back (ranks are slower than decoders, the desired case), the loop spins and
uses up a core next to the training workers. A pause between steps prevents this. But a CPU whose task has ended waits
half a pause for its next one. For a stream with C CPUs, tasks of L seconds and F seconds per step, the least CPU time
is wasted with

    F / pause + C pause / (2 L)        so        pause = sqrt(2 L F / C)
"""

from __future__ import annotations

import math
import time
from typing import Any

from stm.ray_compat import (
    add_execution_callback,
    execution_callback,
    hold_back,
    keep_moving,
    let_borrow,
    wake_readers,
)

STEP_S = 0.006
"""F: CPU time of a step (docs/benchmarks.md)."""

CLIP_S = 0.012
"""CPU time to decode a clip; L is the time for all clips of a task."""

LEAST_S, MOST_S = 0.005, 0.1

_PAUSE, _PLAN, _LENT = "stm.pause_s", "stm.plan", "stm.lent_cpus"


def pause_s(cpus: float, task_clips: int) -> float:
    """Seconds between two steps of a stream that decodes on ``cpus`` CPUs in tasks of ``task_clips`` clips."""
    return min(MOST_S, max(LEAST_S, math.sqrt(2 * CLIP_S * task_clips * STEP_S / max(cpus, 1.0))))


def paced(context: Any, pause_s: float, plan: str, num_tasks: int) -> None:
    """Make executions under a ``DataContext`` pause ``pause_s`` between steps, if Ray Data has callbacks.

    The operator ``plan`` is held back while three rows wait for each of ``num_tasks`` tasks.
    """
    context.set_config(_PAUSE, pause_s)
    context.set_config(_PLAN, (plan, 3 * num_tasks))
    add_execution_callback(context, Pace)


def lend(context: Any, cpus: float) -> None:
    """Let executions under a `paced` ``DataContext`` use up to ``cpus`` CPUs, whatever share Ray Data gives them.

    Ray Data divides the CPUs of each node into equal whole parts, which are 0 with fewer CPUs than executions.
    Requests for CPUs that are not free wait in Ray's queue.
    """
    context.set_config(_LENT, cpus)


class Pace(execution_callback()):  # type: ignore[misc]
    """Callback that `paced` registers."""

    def before_execution_starts(self, executor: Any) -> None:
        """Ray calls this once."""
        wake_readers(executor)
        plan, most = executor._data_context.get_config(_PLAN)
        hold_back(executor, plan, most)
        keep_moving(executor, plan)
        lent = executor._data_context.get_config(_LENT)
        if lent is not None:
            let_borrow(executor, lent)

    def on_execution_step(self, executor: Any) -> None:
        """Ray calls this after every step of the loop."""
        time.sleep(executor._data_context.get_config(_PAUSE, MOST_S))

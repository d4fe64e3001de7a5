"""The pace of a Ray Data execution, and the CPUs that it may count on.

A step of its scheduling loop costs the same whether there is work or not, so there is a pause between two.

A step of Ray 2.60's loop takes some milliseconds of CPU, mostly to sum up what is in use, and when all that the
executor could read is held back (ranks are slower than decoders: what one hopes for), the loop turns without a pause
and burns a core beside the training workers. On the other hand a CPU whose task has ended waits half a pause for its
next one. Of a stream with C CPUs, whose tasks take L seconds, and of which a step takes F, both together waste least
with

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
"""Decoding of a clip; L is that of a task's clips."""

LEAST_S, MOST_S = 0.005, 0.1

_PAUSE, _PLAN, _LENT = "stm.pause_s", "stm.plan", "stm.lent_cpus"


def pause_s(cpus: float, task_clips: int) -> float:
    """Seconds between two steps of a stream that decodes on so many CPUs, in tasks of so many clips."""
    return min(MOST_S, max(LEAST_S, math.sqrt(2 * CLIP_S * task_clips * STEP_S / max(cpus, 1.0))))


def paced(context: Any, pause_s: float, plan: str, num_tasks: int) -> None:
    """Have executions under a ``DataContext`` pause so, where Ray Data has callbacks.

    The operator ``plan`` is held back while three rows wait for each of ``num_tasks`` tasks.
    """
    context.set_config(_PAUSE, pause_s)
    context.set_config(_PLAN, (plan, 3 * num_tasks))
    add_execution_callback(context, Pace)


def lend(context: Any, cpus: float) -> None:
    """Let executions under a ``DataContext`` that is `paced` use up to so many CPUs, whatever Ray Data gives each.

    It deals the CPUs of each node out in equal, whole parts: of fewer CPUs than executions, none. What is asked for and
    not free waits in Ray, in turn.
    """
    context.set_config(_LENT, cpus)


class Pace(execution_callback()):  # type: ignore[misc]
    """Registered by `paced`."""

    def before_execution_starts(self, executor: Any) -> None:
        """Called by Ray once."""
        wake_readers(executor)
        plan, most = executor._data_context.get_config(_PLAN)
        hold_back(executor, plan, most)
        keep_moving(executor, plan)
        lent = executor._data_context.get_config(_LENT)
        if lent is not None:
            let_borrow(executor, lent)

    def on_execution_step(self, executor: Any) -> None:
        """Called by Ray after every step of the loop."""
        time.sleep(executor._data_context.get_config(_PAUSE, MOST_S))

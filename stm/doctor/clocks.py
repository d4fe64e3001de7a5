"""Check how far each node's clock differs from this machine's, measured as NTP does."""

from __future__ import annotations

import time
from collections.abc import Sequence

from stm.doctor.finding import Finding, fails, ok, warning
from stm.doctor.nodes import Missing, Node, listed, on_each

OFF_S, FAR_OFF_S = 1.0, 300.0
"""Differences (s) from which log lines are out of order, and from which object stores and tokens refuse requests."""

_PINGS = 4

Offset = tuple[float, float]
"""Seconds that a clock is ahead of this machine's, and the uncertainty of this in seconds."""


def check(nodes: Sequence[Node], deadline_s: float) -> Finding:
    """Ask each node for the time, several times, and use the quickest answer."""
    offsets: dict[str, Offset] = {}
    absent: dict[str, str] = {}
    for node in nodes:
        for _ in range(_PINGS):  # the first may have to wait for a process to start
            sent = time.time()
            answer = on_each([node], time_there, deadline_s=deadline_s)[node.name]
            back = time.time()
            if isinstance(answer, Missing):
                absent[node.name] = answer.reason
                break
            measured = (answer - (sent + back) / 2, (back - sent) / 2)
            offsets[node.name] = min(
                offsets.get(node.name, measured), measured, key=lambda offset: offset[1]
            )
    return check_offsets(offsets, absent)


def time_there() -> float:
    """Return the time on the node that runs this, in seconds."""
    return time.time()


def check_offsets(offsets: dict[str, Offset], absent: dict[str, str]) -> Finding:
    """Judge offsets; a clock is wrong only if it differs by more than the uncertainty of the measurement."""
    off = {
        name: (ahead, unsure) for name, (ahead, unsure) in offsets.items() if abs(ahead) > unsure
    }
    bad = {
        name: f"{abs(ahead):.1f} s {'ahead' if ahead > 0 else 'behind'}"
        for name, (ahead, unsure) in off.items()
        if abs(ahead) - unsure > OFF_S
    }
    todo = "synchronize the clocks of the nodes with chrony or systemd-timesyncd"
    if absent:
        return fails("clocks", listed(absent), "see the other lines about this node")
    if bad:
        verdict = fails if max(abs(offsets[name][0]) for name in bad) > FAR_OFF_S else warning
        return verdict("clocks", listed(bad), todo)
    largest = max((abs(ahead) + unsure for ahead, unsure in offsets.values()), default=0.0)
    return ok("clocks", f"within {max(largest, 0.001):.3f} s of this machine's")

"""Which process something belongs to, as a word for file names: ``me()``, and whether it still ``lives``.

    "9c41d0a2.4711.1764179283"    the machine, the process id, when that process began (s)

The machine is its name, its boot and its space of process ids, so that two containers of one name are two machines.
"""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

import psutil

_SAME_START_S = 60
"""A process id is not used again so soon; clocks that are set make the start of a process move a little."""


def me() -> str:
    """The word for this process."""
    return f"{_machine()}.{os.getpid()}.{psutil.Process().create_time():.0f}"


def lives(owner: str) -> bool | None:
    """Whether the process that ``owner`` names lives; None where that cannot be known from this machine."""
    machine, *numbers = owner.split(".")
    if machine != _machine() or len(numbers) != 2:
        return None
    try:
        process = psutil.Process(int(numbers[0]))
        same = abs(process.create_time() - float(numbers[1])) < _SAME_START_S
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, ValueError):
        return None


def _machine() -> str:
    parts = [socket.gethostname()]
    for read in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text(),
        lambda: os.readlink("/proc/self/ns/pid"),
    ):
        try:
            parts.append(read())
        except OSError:  # not Linux
            parts.append("")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]

"""Name the process that owns something, in a form for file names (``me``), and tell whether it still ``lives``.

    "9c41d0a2.4711.1764179283"    the machine, the process id, the start of the process (s)

The machine is a hash of its name, boot and PID namespace, so that two containers with the same name differ.
"""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

import psutil

_SAME_START_S = 60
"""Tolerance of a start: setting the clock moves it a little, and a process id is not reused this soon."""


def me() -> str:
    """Return the name of this process."""
    return f"{_machine()}.{os.getpid()}.{psutil.Process().create_time():.0f}"


def lives(owner: str) -> bool | None:
    """Return whether the process ``owner`` still runs; None if this machine cannot tell."""
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

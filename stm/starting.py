"""Check what Ray needs from this machine before it starts: a folder for its sockets, disk space, memory, open files.

    look()              # raises if Ray cannot start; Ray would wait for minutes, three times, without giving the reason
    slow_store(bytes)   # warns if its object store is on a disk

Ray's session folder is below ``RAY_TMPDIR``, else ``TMPDIR``, else ``/tmp``.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import shutil
import sys
from pathlib import Path

import psutil

from stm.errors import UserError
from stm.log import get_logger
from stm.plural import counted

logger = get_logger(__name__)

MORE_SHM = "give the container more (`docker run --shm-size 8g`, in Kubernetes an emptyDir of medium Memory there)"

_SOCKET = "ray/session_2026-01-01_00-00-00_000000_{process}/sockets/plasma_store"
_SOCKET_BYTES = 107 if sys.platform == "linux" else 103
"""Largest length of a socket's path that the system allows."""
_ROOM_BYTES = 100 * 2**20
"""Space for Ray's logs and its smallest object store."""
_MAPPED_BYTES = 8 * 2**30
"""Address space that a worker maps when it imports torch; it never uses most of it."""
_FILES = 64
"""Smallest limit of open files with which Ray may start."""
_THREADS = 400
"""Smallest number of threads for Ray: with 350, training with one worker on two CPUs hangs; with 200, index crashes."""
_THREADS_A_CPU = 50
"""Threads of the worker that Ray may keep for each CPU."""


def look() -> None:
    """Raise ``UserError`` if Ray cannot start on this machine for a lasting reason."""
    _look_at_limits()
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), None)
    folder = os.environ[name] if name else "/tmp"
    called = f"{name}={folder}" if name else folder
    if not os.path.isabs(folder) or "" in (os.environ.get("RAY_TMPDIR"), os.environ.get("TMPDIR")):
        # Ray accepts an empty name, and each of its processes resolves a relative one differently.
        os.environ["RAY_TMPDIR"] = folder = os.path.abspath(folder)
    todo = (
        "set RAY_TMPDIR to a short folder of ASCII letters on a disk of this machine, such as /tmp"
    )
    socket = os.path.join(folder, _SOCKET.format(process=os.getpid()))
    num_bytes = len(os.fsencode(socket))
    if num_bytes > _SOCKET_BYTES:
        raise UserError(
            f"{called}: Ray's sockets are in this folder, and the path of one would have {num_bytes} bytes, where the "
            f"system allows {_SOCKET_BYTES}: {todo}"
        )
    if not socket.isascii():
        raise UserError(
            f"{called}: Ray's sockets are in this folder, and their paths must be ASCII: {todo}"
        )
    try:
        below = Path(folder, "ray")
        below.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(below).free
    except OSError as error:
        raise UserError(
            f"{called}: Ray cannot write its files there ({error.strerror}): {todo}"
        ) from error
    if not os.access(below, os.W_OK | os.X_OK):
        raise UserError(f"{below}: this user cannot write there, but Ray has to: {todo}")
    if free < _ROOM_BYTES:
        raise UserError(
            f"{called}: {_mb(free)} are free, but Ray needs {_mb(_ROOM_BYTES)} for its files: make room, or {todo}"
        )


def slow_store(store_bytes: float) -> None:
    """Warn if an object store of ``store_bytes`` does not fit into /dev/shm, and so will be on a disk."""
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:  # this system has no /dev/shm
        return
    if free < store_bytes:
        logger.warning(
            f"/dev/shm has {_mb(free)} free, so Ray keeps its object store of up to {_mb(store_bytes)} on a disk, "
            f"which is slower: {MORE_SHM}"
        )


def _look_at_limits() -> None:
    mapped, _ = resource.getrlimit(resource.RLIMIT_AS)
    if mapped != resource.RLIM_INFINITY and mapped < _MAPPED_BYTES:
        raise UserError(
            f"`ulimit -v` allows a process {_mb(mapped)} of addresses, but a Ray process with PyTorch needs "
            f"{_mb(_MAPPED_BYTES)}, most of which it never uses: run `ulimit -v unlimited`"
        )
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < _FILES:
        raise UserError(
            f"`ulimit -n` allows a process {files} open files, but Ray needs more: run `ulimit -n 4096`"
        )
    _look_at_threads()


def _look_at_threads() -> None:
    """Raise ``UserError`` or warn if there are too few threads: Ray's processes would crash, or hang."""
    wanted = _THREADS + _THREADS_A_CPU * (os.cpu_count() or 1)
    limits = (
        (_threads_of_user(wanted), "`ulimit -u`", "raise the limit (`ulimit -u 65536`)"),
        (
            _threads_of_cgroup(),
            "the container's pids.max",
            "raise the limit (`docker run --pids-limit -1`)",
        ),
    )
    for room, limit, todo in limits:
        if room < wanted:
            needs = f"{limit} leaves room for {max(0, room):.0f} processes and threads, but Ray "
            if room < _THREADS:
                raise UserError(f"{needs}needs {_THREADS} or more: {todo}")
            logger.warning(
                f"{needs}may need {wanted} on {counted(os.cpu_count() or 1, 'CPU')}: {todo}"
            )


def _threads_of_user(enough: int) -> float:
    """Return how many more threads this user may start; infinite for root."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if limit == resource.RLIM_INFINITY or os.getuid() == 0:
        return math.inf
    if limit > 20 * enough:  # else counting costs a look at every process
        return float(limit)
    mine = (
        process.info["num_threads"]
        for process in psutil.process_iter(["uids", "num_threads"])
        if process.info["uids"] and process.info["uids"].real == os.getuid()
    )
    return float(limit - sum(mine))


def _threads_of_cgroup() -> float:
    """Return how many more threads the control groups of this process allow."""
    room = math.inf
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return room
    for line in lines:  # `8:pids:/a/b` of version 1, `0::/a/b` of version 2
        _, kinds, path = line.split(":", 2)
        if kinds not in ("", "pids"):
            continue
        root = Path("/sys/fs/cgroup", kinds)
        folder = root / path.lstrip("/")
        while folder.is_relative_to(root):
            with contextlib.suppress(OSError, ValueError):  # not there, or "max"
                limit, used = (
                    int((folder / f"pids.{name}").read_text()) for name in ("max", "current")
                )
                room = min(room, limit - used)
            folder = folder.parent
    return room


def _mb(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:.0f} MB"

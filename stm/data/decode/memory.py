"""Limit the memory of decoding, since a few bytes can declare gigabytes of pictures.

    with memory_limit(4 * 2**30):
        decode()  # MemoryError from FFmpeg or NumPy if the process grows by more than 4 GiB

The limit (RLIMIT_DATA) works only on Linux. On other systems memory is not limited.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import threading
from collections.abc import Iterator

_lock = threading.Lock()
_num_inside = 0
_limit_outside = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


@contextlib.contextmanager
def memory_limit(num_bytes: int) -> Iterator[None]:
    """Limit the growth of this process to ``num_bytes`` while the block runs.

    If blocks run in several threads at once, the first to start sets the limit and the last to end
    removes it. An existing lower limit is kept.
    """
    global _num_inside, _limit_outside
    with _lock:
        if not _num_inside:
            _limit_outside = resource.getrlimit(resource.RLIMIT_DATA)
            limit_memory(num_bytes)
        _num_inside += 1
    try:
        yield
    finally:
        with _lock:
            _num_inside -= 1
            if not _num_inside:
                resource.setrlimit(resource.RLIMIT_DATA, _limit_outside)


def limit_memory(num_bytes: int) -> None:
    """Limit the growth of this process to ``num_bytes`` from now on."""
    if sys.platform != "linux":
        return
    with open("/proc/self/statm", "rb") as file:
        limit = int(file.read().split()[5]) * os.sysconf("SC_PAGE_SIZE") + num_bytes
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if soft == resource.RLIM_INFINITY or limit < soft:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))

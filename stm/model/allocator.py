"""Let a CPU process reuse the memory that it frees, instead of returning it to the kernel after each step."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # malloc.h
_NEVER = -1  # any other value is a threshold of at most 2 GiB, less than a training step frees


def keep_freed_memory() -> bool:
    """Make glibc's malloc serve large blocks from a heap that it never returns; True if all settings were accepted.

    By default, every step maps and unmaps the memory of each activation, and the kernel clears those pages each time.
    Networks with many small passes over memory suffer most: STM more than TSN. The process keeps the memory of its
    largest step, which the next step needs again. Returns False without glibc.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _NEVER, _M_ARENA_MAX: 1}
    return all(mallopt(name, value) == 1 for name, value in settings.items())

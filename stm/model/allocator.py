"""Memory that a CPU process frees stays with it, ready for the next step."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # malloc.h
_NEVER = -1  # any number is a limit, and the largest, 2 GiB, is less than a training step frees


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to serve large blocks from a heap that it does not give back; True where it did.

    By default each activation of a network is mapped, touched page by page for the first time, and unmapped, in every
    step anew: the kernel clears those pages again and again. Networks with more, smaller passes over memory, as STM's
    are beside TSN's, suffer most. The process keeps the most it ever needed, which a training process needs again.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _NEVER, _M_ARENA_MAX: 1}
    return all(mallopt(name, value) == 1 for name, value in settings.items())

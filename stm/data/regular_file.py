"""Open regular files only: a FIFO may wait for its writer for ever, and a device may have no end."""

from __future__ import annotations

import os
import stat
from typing import IO

from stm.data.video import VideoError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# Without it, opening a FIFO blocks. It has no effect on a regular file.
_DO_NOT_WAIT = getattr(os, "O_NONBLOCK", 0)


def open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a regular file for unbuffered reading.

    Raises:
        VideoError: ``unsupported_source``, if the path is not a regular file.
        OSError: If it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | _DO_NOT_WAIT | getattr(os, "O_CLOEXEC", 0))
    try:
        require_regular(path, os.fstat(descriptor))
        return os.fdopen(descriptor, "rb", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise


def require_regular(path: str | os.PathLike[str], found: os.stat_result) -> None:
    """Raise ``VideoError`` ``unsupported_source`` unless this is a regular file."""
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise VideoError(os.fspath(path), "unsupported_source", f"{kind}, not a file")

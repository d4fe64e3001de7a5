"""Where a run keeps its files: the driver's own, and the little that Ray Train writes itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from stm.redaction import redact
from stm.storage import filesystem, is_url, split_url


def working_folder(storage: str, name: str) -> Path:
    """Where the driver keeps its own files of a run (the record's spool, figures): the run directory, or where that is
    a URL, a folder of this machine's cache."""
    if not is_url(storage):
        return Path(storage) / name
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return cache / "stm" / "/".join(split_url(redact(storage))).strip("/") / name


def ray_storage(storage: str) -> dict[str, Any]:
    """Where Ray Train keeps what little it writes itself; a URL is read by fsspec, like everything else."""
    if not is_url(storage):
        return {"storage_path": storage}
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    found, root = filesystem(storage)
    return {"storage_path": root, "storage_filesystem": PyFileSystem(FSSpecHandler(found))}

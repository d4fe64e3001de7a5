"""Where the driver and Ray Train store the files of a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from stm.redaction import redact
from stm.storage import filesystem, is_url, split_url


def working_folder(storage: str, name: str) -> Path:
    """Return where the driver stores its own files of a run (the record's spool, figures): the run directory, or a
    folder in this machine's cache if the run directory is a URL."""
    if not is_url(storage):
        return Path(storage) / name
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return cache / "stm" / "/".join(split_url(redact(storage))).strip("/") / name


def ray_storage(storage: str) -> dict[str, Any]:
    """Return Ray Train's storage settings; a URL is accessed through fsspec, as everywhere else in stm."""
    if not is_url(storage):
        return {"storage_path": storage}
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    found, root = filesystem(storage)
    return {"storage_path": root, "storage_filesystem": PyFileSystem(FSSpecHandler(found))}

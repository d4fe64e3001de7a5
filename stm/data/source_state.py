"""Detect whether the source of a video has changed, and measure its size.

    source_state("frames/17")  # ("40:512331:8f0c...", 512331)

Indexing and preparing skip sources whose state is unchanged.
"""

from __future__ import annotations

import hashlib
import os
import stat

from stm.data.shards import is_shard_path, num_bytes_of_row, split_shard_path
from stm.data.video import VideoError, naming_failures
from stm.storage import StorageError, filesystem, info, is_url

_CHANGED = ("ETag", "etag", "LastModified", "mtime")
"""Names that file systems behind a URL use for a mark of the last change."""


def source_state(path: str) -> tuple[str, int]:
    """(state, bytes). The state is a string that changes when the source does; "" if it is missing or unknown.

    The state of a file covers its size and time; that of a link also its target. The state of a folder covers the
    name, size and time of each file, since overwriting a frame does not change the folder's own time. The state of a
    row is that of its shard. Only the footer of a shard is opened. A folder costs one listing and one `stat` per file.

    The location is not part of the state: a copy that keeps its times has the same state.

    Raises:
        VideoError: As in `shards.num_bytes_of_row`. For a URL that cannot be accessed: `unsupported_url`, or the error
            of its file system.
    """
    with naming_failures(path):
        return _source_state(path)


def _source_state(path: str) -> tuple[str, int]:
    if is_shard_path(path):
        file, row = split_shard_path(path)
        state, _ = source_state(file)
        return (f"{state}#{row}" if state else ""), num_bytes_of_row(path)
    if is_url(path):
        return _state_of_url(path)
    try:
        own = found = os.lstat(path)
        if stat.S_ISLNK(own.st_mode):
            found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):
            return _state_of_folder(path, found)
    except (OSError, ValueError):  # ValueError: a NUL byte in the name
        return "", 0
    link = f":{own.st_mtime_ns}" if own is not found else ""
    return f"{found.st_size}:{found.st_mtime_ns}{link}", found.st_size


def _state_of_folder(path: str, found: os.stat_result) -> tuple[str, int]:
    files = []
    total = 0
    with os.scandir(path) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            try:
                if entry.is_dir():
                    files.append((name, 0, 0, 0))
                    continue
                target = entry.stat()
                link = entry.stat(follow_symlinks=False).st_mtime_ns if entry.is_symlink() else 0
            except FileNotFoundError:  # a broken link
                files.append((name, -1, 0, 0))
                continue
            files.append((name, target.st_size, target.st_mtime_ns, link))
            total += target.st_size
    digest = hashlib.blake2b(repr(sorted(files)).encode(), digest_size=16).hexdigest()
    return f"{len(files)}:{total}:{found.st_mtime_ns}:{digest}", total


def _state_of_url(url: str) -> tuple[str, int]:
    try:
        filesystem(url)
    except StorageError as error:  # an unknown scheme, or one whose package is missing
        raise VideoError(url, "unsupported_url", error.strerror or str(error)) from error
    try:
        told = info(url)
    except FileNotFoundError:
        return "", 0
    size = told.get("size")
    changed = next((told[key] for key in _CHANGED if key in told), "")
    return (f"{size}:{changed}" if changed else ""), int(size or 0)

"""Whether the source of a video is still what it was, and how many bytes it has."""

from __future__ import annotations

import os

from stm.data.indexing import file_state
from stm.data.shards import is_shard_path, num_bytes_of_row, split_shard_path


def source_state(path: str) -> tuple[str, int]:
    """(a string that changes when the source does, "" where that cannot be told; bytes).

    A folder changes with the sizes and times of its files, a row with those of its shard.
    """
    if is_shard_path(path):
        file, row = split_shard_path(path)
        state = file_state(file)
        return (f"{state}#{row}" if state else ""), num_bytes_of_row(path)
    if "://" in path:
        import fsspec

        filesystem, name = fsspec.core.url_to_fs(path)
        return file_state(path), int(filesystem.size(name) or 0)
    if os.path.isdir(path):
        with os.scandir(path) as entries:
            stats = [entry.stat() for entry in entries if entry.is_file()]
        total = sum(stat.st_size for stat in stats)
        latest = max((stat.st_mtime_ns for stat in stats), default=0)
        return f"{len(stats)}:{total}:{latest}:{os.stat(path).st_mtime_ns}", total
    state = file_state(path)
    return state, os.path.getsize(path) if state else 0

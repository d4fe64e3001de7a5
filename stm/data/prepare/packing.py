"""Pack prepared videos into shards: the second stage of preparing with the layout "shards"."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path

from stm.data.prepare.log import PrepareLog, Record
from stm.data.shards import Payload, read_images, shard_path, write_shard
from stm.errors import UserError

Staged = tuple[int, str, Record]
"""Row of the manifest, video id, and the record whose result is to be packed."""


def pack(
    staged: list[Staged], output: Path, temporary: Path, shard_bytes: int, log: PrepareLog
) -> dict[int, Record]:
    """Write new shards of about `shard_bytes` in the order given, on the connected cluster.

    Shards are never rewritten, so manifests that name them stay valid. The rows of a shard are
    recorded when it is complete, and only then are the packed files deleted.

    Returns the new record of each row. Raises UserError if a shard cannot be written.
    """
    import ray

    folder = output / "shards"
    folder.mkdir(exist_ok=True)
    first = 1 + max((_number(path) for path in folder.glob("shard-*.parquet")), default=-1)
    write = ray.remote(_write)
    waiting = {}
    for number, group in enumerate(_groups(staged, shard_bytes), start=first):
        target = folder / f"shard-{number:05d}.parquet"
        rows = [(video_id, str(output / record.result)) for _, video_id, record in group]
        waiting[write.remote(str(target), str(temporary / target.name), rows)] = target, group
    packed: dict[int, Record] = {}
    while waiting:
        (done, *_), _ = ray.wait(list(waiting), num_returns=1)
        target, group = waiting.pop(done)
        try:
            ray.get(done)
        except OSError as error:
            raise UserError(
                f"{target}: cannot write the shard ({error.strerror or error}). Mend that and run "
                "the same command: it goes on where it was."
            ) from error
        for k, (row, _, record) in enumerate(group):
            result = str(Path(shard_path(target, k)).relative_to(output))
            packed[row] = dataclasses.replace(record, result=result, written=time.time())
            log.add(packed[row])
        for _, _, record in group:
            (output / record.result).unlink(missing_ok=True)
    return packed


def _groups(staged: list[Staged], shard_bytes: int) -> Iterator[list[Staged]]:
    """Runs of one kind, videos or images, each as long as fits in `shard_bytes`."""
    for suffix in (".mp4", ".parquet"):
        group: list[Staged] = []
        num_bytes = 0
        for item in staged:
            record = item[2]
            if not record.result.endswith(suffix):
                continue
            if group and num_bytes + record.bytes_after > shard_bytes:
                yield group
                group, num_bytes = [], 0
            group.append(item)
            num_bytes += record.bytes_after
        if group:
            yield group


def _write(target: str, temporary: str, rows: list[tuple[str, str]]) -> None:
    """Write (video_id, path of the result) rows atomically as one shard."""
    write_shard(temporary, ((video_id, _payload(path)) for video_id, path in rows))
    os.replace(temporary, target)


def _payload(path: str) -> Payload:
    if path.endswith(".parquet"):
        return read_images(shard_path(path, 0))
    return Path(path).read_bytes()


def _number(path: Path) -> int:
    digits = path.stem.removeprefix("shard-")
    return int(digits) if digits.isdigit() else -1

"""Make a manifest's videos cheap to decode, on the cluster, and write a manifest of the results.

    prepared, summary = prepare_videos(Manifest.read("manifests/train.parquet"), Path("prepared"))

The new manifest has the same rows in the same order. A video that cannot be prepared is reported
with the reason. Ray Data does the work; each of its rows is one video:

| column    | dtype  | meaning                                                                   |
|-----------|--------|---------------------------------------------------------------------------|
| row       | int64  | place in the manifest                                                     |
| known     | string | JSON {key: JSON of a record}: records that are valid for an unchanged key |
| source    | string | path below the manifest's root, which identifies a video in a record      |
|           |        | and the manifest's video_id, path, num_frames, fps, width, height, codec  |

The resulting row has `row`, `record` (JSON of a `prepare_log.Record`), `unchanged` (bool: an earlier
record is valid) and `fatal` (string: why nothing can be written; "" without an error).

    OUTPUT/videos/3f/<video id>-<key>.mp4        layout "files"
    OUTPUT/shards/shard-00000.parquet            layout "shards"; see stm.data.shards
    OUTPUT/.prepare/                             records, and results not yet packed into shards
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stm.data.manifest import OK, SCHEMA, Manifest
from stm.data.prepare.log import NO_GAIN, Record
from stm.data.prepare.packing import pack
from stm.data.prepare.task import SOURCE_COLUMNS, Job, Make, prepare_block
from stm.data.prepare.transcode import CODECS, Settings, make_video
from stm.data.roots import relative_to
from stm.errors import UserError
from stm.plural import counted

LAYOUTS = ("files", "shards")
FAILED = "prepare_failed"
"""Status of a video that was usable and could not be prepared."""

_DEFAULT = Settings()
_MOST_ROWS_A_TASK = 16


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A usable video that was not prepared, and why."""

    row: int
    video_id: str
    path: str
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The results of preparing. Counts are numbers of videos that were usable before."""

    num_videos: int
    num_made: int
    """Videos made now, or measured and left alone; the others are unchanged since an earlier job."""

    failures: list[Failure]
    left_alone: list[Failure]
    """Videos that would not gain enough (`Settings.min_gain`); their rows are unchanged."""

    bytes_before: int
    bytes_after: int
    """Total size of the prepared videos."""

    seconds: float

    @property
    def num_prepared(self) -> int:
        return self.num_videos - len(self.failures) - len(self.left_alone)

    @property
    def reasons(self) -> dict[str, int]:
        """Failures by reason."""
        return dict(Counter(failure.reason for failure in self.failures).most_common())


def prepare_videos(
    manifest: Manifest,
    output: Path,
    *,
    layout: str = "files",
    settings: Settings = _DEFAULT,
    keep_source_on_failure: bool = False,
    deadline_s: float = 60.0,
    deadline_s_per_frame: float = 0.5,
    shard_bytes: int = 256 * 2**20,
    make: Make = make_video,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Manifest, Summary]:
    """Prepare the usable videos on the connected cluster, each in a process that may hang or die.

    output: folder that every node of the cluster sees under this name. A repeated call makes only
        results that are missing or whose source has changed in size or time.
    layout: "files", one mp4 per video, or "shards", Parquet files of about `shard_bytes`.
    keep_source_on_failure: a video that fails keeps its row unchanged; else its status shows the failure.
    deadline_s, deadline_s_per_frame: time limit of a video, plus an allowance for each of its frames.
    make: function that makes one result, at the top of an importable module.
    progress: called with (videos done, all usable videos) after every video.

    Returns the new manifest, not yet written, and a summary.

    Raises UserError if `output` cannot be written or another job is using it.
    """
    begun = time.perf_counter()
    if layout not in LAYOUTS:
        raise UserError(f"layout {layout!r}: must be one of {', '.join(LAYOUTS)}.")
    if settings.codec not in CODECS:
        raise UserError(f"codec {settings.codec!r}: must be one of {', '.join(CODECS)}.")
    if layout != "shards" and (settings.keep_jpeg or settings.codec == "jpeg"):
        raise UserError("JPEG frames need layout shards: a file holds one video.")
    work = output / ".prepare"
    job = Job(
        output=output,
        temporary=work / f"tmp-{uuid.uuid4().hex}",
        layout=layout,
        settings=settings,
        deadline_s=deadline_s,
        deadline_s_per_frame=deadline_s_per_frame,
        make=make,
    )
    with _only_one(work):
        for leftover in work.glob("tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        job.temporary.mkdir()
        try:
            known = job.log.load()
            records, num_made = _make_all(manifest, job, known, progress)
            if layout == "shards":
                names = manifest.table["video_id"].to_pylist()
                staged = [
                    (row, names[row], record)
                    for row, record in sorted(records.items())
                    if record.result.startswith(".prepare/")
                ]
                records.update(pack(staged, output, job.temporary, shard_bytes, job.log))
            known.update((record.key, record) for record in records.values())
            job.log.compact(known.values())
        finally:
            shutil.rmtree(job.temporary, ignore_errors=True)
    unprepared = _unprepared(manifest, records)
    prepared = [record for record in records.values() if record.result]
    summary = Summary(
        num_videos=len(records),
        num_made=num_made,
        failures=[each for each in unprepared if each.reason != NO_GAIN],
        left_alone=[each for each in unprepared if each.reason == NO_GAIN],
        bytes_before=sum(record.bytes_before for record in prepared),
        bytes_after=sum(record.bytes_after for record in prepared),
        seconds=time.perf_counter() - begun,
    )
    return _new_manifest(manifest, output, records, keep_source_on_failure), summary


def _make_all(
    manifest: Manifest,
    job: Job,
    known: dict[str, Record],
    progress: Callable[[int, int], None] | None,
) -> tuple[dict[int, Record], int]:
    """({row: record} of every usable video, number of those made now), by one Ray Data job."""
    import ray.data

    records: dict[int, Record] = {}
    num_made = 0
    context = ray.data.DataContext.get_current().copy()
    # Any row exceeds one byte, so each leaves its task as soon as it is done.
    context.target_max_block_size = 1
    context.enable_progress_bars = False
    with ray.data.DataContext.current(context):
        dataset = ray.data.from_arrow(_blocks(manifest, job, known)).map_batches(
            partial(prepare_block, job=job), batch_size=None, batch_format="pyarrow"
        )
        for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for item in pa.table(block).to_pylist():
                if item["fatal"]:
                    raise UserError(
                        f"{item['fatal']}. Mend that and run the same command: it goes on where it was."
                    )
                records[item["row"]] = Record.from_json(item["record"])
                num_made += not item["unchanged"]
                if progress is not None:
                    progress(len(records), len(manifest.usable))
    if len(records) != len(manifest.usable):
        lost = f"{counted(len(records), 'result')} of {counted(len(manifest.usable), 'video')}"
        raise RuntimeError(f"{lost}: rows were lost in Ray")
    return records, num_made


def _blocks(manifest: Manifest, job: Job, known: dict[str, Record]) -> list[pa.Table]:
    """The job's rows in blocks that keep all CPUs busy and are large enough to justify a task."""
    import ray

    of_source: dict[str, list[Record]] = {}
    for record in known.values():
        of_source.setdefault(record.source, []).append(record)
    table = manifest.table.select(SOURCE_COLUMNS).take(pa.array(manifest.usable))
    sources = [relative_to(path, manifest.root) for path in table["path"].to_pylist()]
    held = [
        json.dumps(
            {
                record.key: record.to_json()
                for record in of_source.get(source, [])
                if record.is_final(job.deadline(num_frames))
            }
        )
        for source, num_frames in zip(sources, table["num_frames"].to_pylist(), strict=True)
    ]
    table = table.append_column("row", pa.array(manifest.usable))
    table = table.append_column("source", pa.array(sources, pa.string()))
    table = table.append_column("known", pa.array(held, pa.string())).combine_chunks()
    num_cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
    num_rows = min(_MOST_ROWS_A_TASK, max(4, table.num_rows // (4 * num_cpus)))
    # take: a slice would send the buffers of the whole table to every task.
    return [
        table.take(np.arange(start, min(start + num_rows, table.num_rows)))
        for start in range(0, table.num_rows, num_rows)
    ]


def _unprepared(manifest: Manifest, records: dict[int, Record]) -> list[Failure]:
    names, paths = (manifest.table[name].to_pylist() for name in ("video_id", "path"))
    return [
        Failure(
            row=row,
            video_id=names[row],
            path=paths[row],
            reason=record.reason,
            detail=record.detail,
        )
        for row, record in sorted(records.items())
        if not record.result
    ]


def _new_manifest(
    manifest: Manifest, output: Path, records: dict[int, Record], keep_source: bool
) -> Manifest:
    columns = manifest.table.to_pydict()
    for row, record in records.items():
        values: dict[str, Any] = {}
        if record.result:
            values["path"] = str(output / record.result)
            for name in ("width", "height", "codec", "keyframe_interval", "guard"):
                values[name] = getattr(record, name)
        elif record.reason != NO_GAIN and not keep_source:
            # As in a manifest of `stm index`: unusable videos have no facts.
            values = {"num_frames": 0, "fps": 0, "width": 0, "height": 0, "codec": ""}
            values |= {"guard": "", "keyframe_interval": 0}
            values |= {"status": FAILED, "detail": f"{record.reason}: {record.detail}"}
        for name, value in values.items():
            columns[name][row] = value
    assert {columns["status"][row] for row in records} <= {OK, FAILED}
    return Manifest(
        table=pa.table(columns, schema=SCHEMA),
        classes=manifest.classes,
        dataset=manifest.dataset,
        flip=manifest.flip,
        flip_map=manifest.flip_map,
        root=str(output),
    )


@contextlib.contextmanager
def _only_one(work: Path) -> Iterator[None]:
    """Hold the folder's lock; the kernel releases it when the process ends for any reason."""
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock = open(work / "lock", "w")  # noqa: SIM115  (closed below)
    except OSError as error:
        raise UserError(
            f"{work.parent}: cannot write there ({error.strerror}). Name another output folder."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise UserError(
                    f"{work.parent}: another `stm prepare` is at work there. Wait for it, or name "
                    "another output folder."
                ) from error
            # The file system has no locks: continue without one.
        yield

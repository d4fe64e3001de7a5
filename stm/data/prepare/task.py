"""The task of preparing: one video after another, each in a child that may hang or die.

See `stm.data.prepare.preparing` for the rows that come in and go out.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from stm.data import shards
from stm.data.decode import VideoError
from stm.data.isolation import CallFailed, IsolatedProcess
from stm.data.prepare.log import NO_GAIN, PrepareLog, Record
from stm.data.prepare.transcode import NoGain, OutputFailed, Prepared, Settings, VideoFacts
from stm.data.source_state import source_state

Make = Callable[[VideoFacts, str, Settings], Prepared]

SOURCE_COLUMNS = ("video_id", "path", "num_frames", "fps", "width", "height", "codec")
"""Manifest columns that a task gets for each video."""

_VERSION = 1  # part of every key: results of another version are made again
_FRAMES = "jpeg-folder"  # the codec of frame folders
_ROWS_OUT = pa.schema(
    [
        ("row", pa.int64()),
        ("record", pa.string()),
        ("unchanged", pa.bool_()),
        ("fatal", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """The settings of a task."""

    output: Path
    temporary: Path
    layout: str
    settings: Settings
    deadline_s: float
    deadline_s_per_frame: float
    make: Make

    @property
    def log(self) -> PrepareLog:
        return PrepareLog(self.output / ".prepare" / "records")

    def deadline(self, num_frames: int) -> float:
        return self.deadline_s + self.deadline_s_per_frame * num_frames


def prepare_block(block: pa.Table, job: Job) -> Iterator[pa.Table]:
    """Prepare the videos of a block, one after another, in a child that serves the block."""
    log = job.log
    with IsolatedProcess(
        preload=["stm.data.prepare.transcode", "stm.data.source_state"]
    ) as process:
        for item in block.to_pylist():
            fatal, unchanged, record = "", False, Record(key="", source=item["source"])
            try:
                record, unchanged = _prepare(process, item, job)
                if not unchanged:
                    log.add(record)
            except OutputFailed as error:
                fatal = f"cannot write the result of {item['video_id']}: {error}"
            except OSError as error:
                fatal = f"cannot write the result of {item['video_id']}: {error.strerror or error}"
            row = (item["row"], record.to_json(), unchanged, fatal)
            yield pa.Table.from_arrays([pa.array([value]) for value in row], schema=_ROWS_OUT)
            if fatal:
                return


def _prepare(process: IsolatedProcess, item: dict[str, Any], job: Job) -> tuple[Record, bool]:
    """(record of one video, whether it is an earlier one).

    Raises OSError or OutputFailed if the result cannot be written.
    """
    deadline_s = job.deadline(item["num_frames"])
    facts = VideoFacts(
        path=item["path"],
        num_frames=item["num_frames"],
        fps=item["fps"],
        width=item["width"],
        height=item["height"],
        is_frames=item["codec"] == _FRAMES,
    )
    keeps_images = facts.is_frames and job.settings.keep_jpeg
    suffix = ".parquet" if keeps_images or job.settings.codec == "jpeg" else ".mp4"
    temporary = job.temporary / (uuid.uuid4().hex + suffix)
    record = Record(key=key_of(item, "", job), source=item["source"], deadline_s=deadline_s)
    try:
        # Also in the child, because a stat on a dead network disk hangs.
        state, num_bytes = process.call(source_state, facts.path, deadline_s=job.deadline_s)
        record = replace(record, key=key_of(item, state, job), bytes_before=num_bytes)
        known = json.loads(item["known"]).get(record.key) if state else None
        if known is not None:
            earlier = Record.from_json(known)
            if not earlier.result or (job.output / earlier.result.split("#")[0]).exists():
                return earlier, True
        made = process.call(job.make, facts, str(temporary), job.settings, deadline_s=deadline_s)
    except OutputFailed:
        raise
    except NoGain as no_gain:
        temporary.unlink(missing_ok=True)
        return replace(record, reason=NO_GAIN, detail=str(no_gain)), False
    except (VideoError, CallFailed) as error:
        temporary.unlink(missing_ok=True)
        return replace(record, reason=error.reason, detail=error.detail), False
    except Exception as error:
        # Any exception from a decoder is an error of this file and must not end the job.
        temporary.unlink(missing_ok=True)
        detail = f"{type(error).__name__}: {error}"
        return replace(record, reason="failed", detail=detail), False
    result = _result_path(item["video_id"], record.key, job.layout, suffix)
    (job.output / result).parent.mkdir(parents=True, exist_ok=True)
    os.replace(temporary, job.output / result)
    facts_made = {name: value for name, value in asdict(made).items() if name != "num_bytes"}
    record = replace(record, result=result, bytes_after=made.num_bytes, written=time.time())
    return replace(record, **facts_made), False


def key_of(item: dict[str, Any], state: str, job: Job) -> str:
    """Hash of everything that a result depends on and of the video's name in the manifest."""
    source = {name: item[name] for name in SOURCE_COLUMNS}
    source["path"] = item["source"]  # a moved file is the same source
    settings = asdict(job.settings)
    if item["codec"] != _FRAMES:
        settings["keep_jpeg"] = False  # it has no effect on video files
    layout = [job.layout, shards.VERSION] if job.layout == "shards" else job.layout
    whole = [_VERSION, source, state, settings, layout]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:32]


def _result_path(video_id: str, key: str, layout: str, suffix: str) -> str:
    """Path below the output: the id in characters that are safe in file names, and the unique key.

    A different key gives a different file, so files that a manifest in use names are never replaced.
    """
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", video_id)[-80:].lstrip("._-")
    folder = "videos" if layout == "files" else ".prepare/staged"
    return f"{folder}/{key[:2]}/{readable}-{key}{suffix}"

"""Probe every video of a dataset on the cluster and record the facts of each, usable or not.

    from stm.data.annotations import read_annotations
    manifests, summary = index_videos(read_annotations("ucf101", "/data/ucf101"))

N videos give N rows in the order listed, even if files hang or crash the decoder: each is probed in
a separate process (`stm.data.isolation`). A Ray Data row of the job:

| column    | dtype  | meaning                                                                    |
|-----------|--------|----------------------------------------------------------------------------|
| row       | int64  | place in the job                                                           |
| path      | string | as in the manifest                                                         |
| known     | string | state of the file when an earlier job probed it; "" to probe it            |

The resulting row has `row`, `unchanged` (bool: the state is `known`, nothing was probed), and the
columns of `stm.data.index.probe_store`, which are empty if unchanged.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stm.data import decode
from stm.data.annotations import Annotations, Entry
from stm.data.annotations.texts import is_utf8, printable
from stm.data.index.cross_check import cross_check_decoders
from stm.data.index.probe_store import FACTS, PROBED, ProbeStore, remembered
from stm.data.isolation import CallFailed, IsolatedProcess
from stm.data.manifest import OK, SCHEMA, Manifest
from stm.data.roots import absolute_root
from stm.data.source_state import source_state
from stm.plural import counted

Probe = Callable[[str], decode.VideoInfo]

_ROWS_OUT = pa.schema([("row", pa.int64()), ("unchanged", pa.bool_()), *PROBED])
_BLANK = {name: "" if pa.types.is_string(PROBED.field(name).type) else 0 for name in FACTS}
_MOST_ROWS_A_TASK = 256
_MOST_KNOWN_ROWS_A_TASK = 4096
_STATES_AT_ONCE = 256
_INT16_MAX = int(np.iinfo(np.int16).max)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The results of indexing over all splits. Counts are numbers of videos."""

    num_videos: int
    num_probed: int
    """Videos probed now; the others are unchanged since an earlier job."""

    status: dict[str, int]
    codec: dict[str, int]
    """Usable videos by codec; likewise `size` and `guard`."""

    size: dict[str, int]
    guard: dict[str, int]
    """Usable videos by the reason why decord may not be trusted; "" if it may."""

    num_frames: dict[str, float]
    """Quantiles of the usable videos' lengths in frames: min, 10%, 50%, 90%, max."""

    num_cross_checked: int
    disagreements: dict[str, str]
    """Path -> how decord differs from the packet plan, among the cross-checked files."""

    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def index_videos(
    annotations: Annotations,
    *,
    root: str | os.PathLike[str] | None = None,
    work_dir: str | os.PathLike[str] | None = None,
    deadline_s: float = 30.0,
    cross_check: int = 20,
    limits: decode.Limits = decode.DEFAULT_LIMITS,
    probe: Probe | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Manifest], Summary]:
    """Probe the videos of all splits in one Ray Data job on the connected cluster.

    root: folder or URL of the videos, stored apart from their paths in the manifests and in `work_dir`,
        so that the data set may move.
    work_dir: folder for the results of each block, so that an interrupted job can resume and a later
        one probes only new or changed files; None stores nothing.
    deadline_s: time limit per file. A slower file has status `deadline`, one that crashes its
        process `crashed`, and any other failure the reason of its VideoError.
    cross_check: up to this many usable files are also read by decord and compared.
    limits: a file that exceeds them has status `too_large`.
    probe: the function that examines a file, at the top of an importable module; None is
        `decode.probe` with the `limits`.
    progress: called with (videos done, all videos) after every block.

    Returns the manifest of each split, rows in the order of its entries, and a summary.
    """
    begun = time.perf_counter()
    entries = [entry for listed in annotations.splits.values() for entry in listed]
    # Arrow strings and manifest paths are UTF-8 text: files with other names are listed as bad.
    paths = [printable_path(entry.path) for entry in entries]
    root = None if root is None else absolute_root(root)
    store = ProbeStore(None if work_dir is None else Path(work_dir), root)
    tables = [store.load()]
    known_rows = remembered(tables[0], deadline_s, limits.max_pixels)
    states = tables[0]["state"].to_pylist()
    known = [states[known_rows[path]] if path in known_rows else "" for path in paths]

    # Row of each video's result in the concatenation of `tables`.
    places = np.full(len(entries), -1, np.int64)
    num_stored, num_done, num_probed = tables[0].num_rows, 0, 0
    unnamed = [row for row, entry in enumerate(entries) if entry.path != paths[row]]
    if unnamed:
        tables.append(_bad_names([paths[row] for row in unnamed], deadline_s))
        places[unnamed] = np.arange(num_stored, num_stored + len(unnamed))
        num_stored += len(unnamed)
        num_done = len(unnamed)
    probe = probe or partial(decode.probe, limits=limits)
    task = partial(_probe_block, probe=probe, deadline_s=deadline_s)
    rest = np.setdiff1d(np.arange(len(paths), dtype=np.int64), unnamed)
    for block in _run_tasks(_blocks(rest, paths, known), task) if len(rest) else ():
        rows = block["row"].to_numpy()
        unchanged = block["unchanged"].to_numpy(zero_copy_only=False)
        for row in rows[unchanged]:
            places[row] = known_rows[paths[row]]
        fresh = block.filter(pc.invert(block["unchanged"])).select(PROBED.names)
        places[rows[~unchanged]] = np.arange(num_stored, num_stored + fresh.num_rows)
        store.add(fresh)
        tables.append(fresh)
        num_stored += fresh.num_rows
        num_probed += fresh.num_rows
        num_done += len(rows)
        if progress is not None:
            progress(num_done, len(entries))
    if num_done != len(entries) or (places < 0).any():
        raise RuntimeError(
            f"{counted(num_done, 'result')} of {counted(len(entries), 'video')}: rows were lost in Ray"
        )
    results = pa.concat_tables(tables).take(places).combine_chunks()
    store.compact(results)

    disagreements, num_checked = cross_check_decoders(results, cross_check, deadline_s)
    results = _with_disagreements(results, disagreements)
    summary = _summarise(results, num_probed, disagreements, num_checked, begun)
    manifests: dict[str, Manifest] = {}
    start = 0
    for name, listed in annotations.splits.items():
        part = results.slice(start, len(listed))
        manifests[name] = Manifest(
            table=_manifest_table(listed, part),
            classes=annotations.classes,
            dataset=annotations.dataset,
            flip=annotations.flip,
            flip_map=annotations.flip_map,
            root=root,
        )
        start += len(listed)
    return manifests, summary


def printable_path(path: str) -> str:
    """`path` itself if it is UTF-8 text, else with its other bytes escaped."""
    return path if is_utf8(path) else printable(path)


def _bad_names(paths: Sequence[str], deadline_s: float) -> pa.Table:
    """The results, schema PROBED, of files that are not opened because their names are not UTF-8."""
    detail = "its name, or that of a folder above it, is not UTF-8; rename it"
    facts = {**_BLANK, "status": "bad_name", "detail": detail}
    rows = [{**facts, "path": path, "state": "", "deadline_s": deadline_s} for path in paths]
    return pa.Table.from_pylist(rows, schema=PROBED)


def _blocks(rows: NDArray[np.int64], paths: Sequence[str], known: Sequence[str]) -> list[pa.Table]:
    """The job's rows in blocks that keep all CPUs busy and are large enough to justify starting a task.

    Known files are usually checked without opening them, so a task has many more of them.
    """
    import ray

    num_cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
    is_known = np.array([bool(known[row]) for row in rows])
    blocks = []
    for part, most in (
        (rows[is_known], _MOST_KNOWN_ROWS_A_TASK),
        (rows[~is_known], _MOST_ROWS_A_TASK),
    ):
        num_rows = min(most, max(16, -(-len(part) // num_cpus)))
        for start in range(0, len(part), num_rows):
            taken = part[start : start + num_rows]
            columns = {
                "row": pa.array(taken),
                "path": pa.array([paths[row] for row in taken], pa.string()),
                "known": pa.array([known[row] for row in taken], pa.string()),
            }
            blocks.append(pa.table(columns))
    return blocks


def _run_tasks(blocks: list[pa.Table], task: Callable[[pa.Table], pa.Table]) -> Iterator[pa.Table]:
    """Yield `task(block)` for each block, in whichever order they finish."""
    import ray.data

    dataset = ray.data.from_arrow(blocks).map_batches(task, batch_size=None, batch_format="pyarrow")
    dataset.context.enable_progress_bars = False
    yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")


def _probe_block(block: pa.Table, *, probe: Probe, deadline_s: float) -> pa.Table:
    """Probe the files of one block, one after another, in a child process that serves the block."""
    rows = []
    with IsolatedProcess(preload=["stm.data.decode.probing", "stm.data.source_state"]) as process:
        for start in range(0, block.num_rows, _STATES_AT_ONCE):
            items = block.slice(start, _STATES_AT_ONCE).to_pylist()
            unchanged = _unchanged(process, items, deadline_s)
            for item in items:
                state, facts = item["known"], None
                if item["row"] not in unchanged:
                    state, facts = _examine(process, item["path"], item["known"], probe, deadline_s)
                rows.append(
                    {
                        **_BLANK,
                        **(facts or {}),
                        "row": item["row"],
                        "unchanged": facts is None,
                        "path": item["path"],
                        "state": state,
                        "deadline_s": deadline_s,
                    }
                )
    return pa.Table.from_pylist(rows, schema=_ROWS_OUT)


def _unchanged(
    process: IsolatedProcess, items: list[dict[str, Any]], deadline_s: float
) -> set[int]:
    """The rows with known files that have not changed.

    One call checks all files, because calling the child costs more than checking a file. If the call fails for any
    file, none counts as unchanged, and each is examined separately.
    """
    known = [item for item in items if item["known"]]
    if not known:
        return set()
    try:
        paths = [item["path"] for item in known]
        states = process.call(_states, paths, deadline_s=deadline_s)
    except Exception:
        return set()
    return {
        item["row"] for item, state in zip(known, states, strict=True) if state == item["known"]
    }


def _states(paths: list[str]) -> list[str]:
    return [source_state(path)[0] for path in paths]


def _examine(
    process: IsolatedProcess, path: str, known: str, probe: Probe, deadline_s: float
) -> tuple[str, dict[str, Any] | None]:
    """(state of the file, its facts); the facts are None if the state is the known one."""
    state = ""
    try:
        # Also in the child, because a stat on a dead network disk hangs.
        state, _ = process.call(source_state, path, deadline_s=deadline_s)
        if state and state == known:
            return state, None
        return state, _facts(process.call(probe, path, deadline_s=deadline_s))
    except decode.VideoError as error:
        return state, {"status": error.reason, "detail": error.detail}
    except CallFailed as error:
        return state, {"status": error.reason, "detail": error.detail}
    except Exception as error:
        # Any exception from a decoder is an error of this file and must not end the job.
        return state, {"status": "probe_failed", "detail": f"{type(error).__name__}: {error}"}


def _facts(info: decode.VideoInfo) -> dict[str, Any]:
    if info.num_frames < 1:
        return {"status": "no_frames", "detail": "it holds no frame"}
    if max(info.width, info.height) > _INT16_MAX:
        detail = f"{info.width}x{info.height} pixels; a side may have {_INT16_MAX}"
        return {"status": "too_large", "detail": detail}
    return {
        "status": OK,
        "num_frames": info.num_frames,
        "fps": info.fps,
        "width": info.width,
        "height": info.height,
        "codec": info.codec,
        "guard": info.guard,
        "keyframe_interval": info.keyframe_interval,
    }


def _with_disagreements(results: pa.Table, disagreements: dict[str, str]) -> pa.Table:
    guards = [
        disagreements.get(path, guard)
        for path, guard in zip(
            results["path"].to_pylist(), results["guard"].to_pylist(), strict=True
        )
    ]
    index = results.schema.get_field_index("guard")
    return results.set_column(index, "guard", pa.array(guards, pa.string()))


def _manifest_table(entries: list[Entry], results: pa.Table) -> pa.Table:
    columns: dict[str, Any] = {name: results[name] for name in FACTS}
    columns["video_id"] = pa.array([entry.video_id for entry in entries], pa.string())
    columns["path"] = results["path"]
    columns["label"] = pa.array([entry.label for entry in entries], pa.int32())
    columns["group"] = pa.array([entry.group for entry in entries], pa.string())
    return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _summarise(
    results: pa.Table,
    num_probed: int,
    disagreements: dict[str, str],
    num_checked: int,
    begun: float,
) -> Summary:
    usable = results.filter(pc.equal(results["status"], OK))
    lengths = usable["num_frames"].to_numpy()
    levels = {"min": 0.0, "10%": 0.1, "50%": 0.5, "90%": 0.9, "max": 1.0}
    sizes = zip(usable["width"].to_pylist(), usable["height"].to_pylist(), strict=True)
    return Summary(
        num_videos=results.num_rows,
        num_probed=num_probed,
        status=_counts(results["status"].to_pylist()),
        codec=_counts(usable["codec"].to_pylist()),
        size=_counts(f"{width}x{height}" for width, height in sizes),
        guard=_counts(usable["guard"].to_pylist()),
        num_frames={
            name: float(np.quantile(lengths, level)) if len(lengths) else 0.0
            for name, level in levels.items()
        },
        num_cross_checked=num_checked,
        disagreements=disagreements,
        seconds=time.perf_counter() - begun,
    )


def _counts(values: Any) -> dict[str, int]:
    return dict(Counter(values).most_common())

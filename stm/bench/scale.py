"""Measure how many ranks the data stream can feed, with its real graph but ready arrays instead of decoding.

The result is the cost of everything except decoding: the plan, the executor that distributes blocks, the tasks that
assemble clips, the iterators of the ranks, and Ray itself. Ranks are iterators in a few processes, and read as fast as
they can. The CPU time is that of all processes of the Ray that the benchmark has started on this machine.
"""

from __future__ import annotations

import functools
import itertools
import os
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stm.data.stream.clips import ClipSpec
from stm.data.stream.graph import BLOCK_BYTES, StreamSpec, iterate
from stm.data.stream.guarded import quarantine
from stm.data.stream.streams import split
from stm.log import get_logger
from stm.plural import counted

logger = get_logger(__name__)

RANKS_PER_PROCESS = 32
"""More threads in one process would wait for each other."""

NUM_VIDEOS = 100_000

STILL_S = 300.0
"""Seconds without a step that count as a failure; a round of blocks for 256 ranks takes 15 s on two cores."""

PARTS = {
    "ray::SplitCoordinator": "coordinators",
    "ray::ReadSamplePlan": "plan",
    "ray::_Ranks": "iterators",
    "ray::MapBatches(decode_shares)": "tasks",
    "ray::IDLE": "tasks",  # between two tasks
}
"""The part of each process, by the first words of its title; all other processes are Ray's own."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the stream must deliver."""

    ranks: int
    clips: int
    """Clips of each rank in a step."""
    streams: int = 1


def ready_views(
    path: str,
    num_frames: int,
    width: int,
    height: int,
    label: int,
    seed: int,
    spec: ClipSpec,
    fps: float = 0.0,
    sampling_number: int = 0,
) -> tuple[np.ndarray, int]:
    """Replace ``stm.data.stream.clips.load_views``; return zeros, uint8 [V, T, size, size, 3], and the label."""
    del path, num_frames, width, height, seed, fps, sampling_number
    return _zeros(spec.num_crops, spec.num_segments, spec.size), label


@functools.lru_cache(maxsize=4)
def _zeros(num_views: int, num_frames: int, size: int) -> np.ndarray:
    return np.zeros((num_views, num_frames, size, size, 3), dtype=np.uint8)


def made_up_videos(count: int) -> Any:
    """Return a table like that of ``stm.data.stream.graph.put_videos``, of videos that are never opened."""
    import pyarrow as pa

    names = [f"class_{i % 400:03d}/video_{i:08d}" for i in range(count)]
    return pa.table(
        {
            "video_id": names,
            "path": [f"/data/kinetics/train/{name}.mp4" for name in names],
            "label": pa.array(np.arange(count) % 400, pa.int32()),
            "num_frames": pa.array(np.full(count, 300), pa.int32()),
            "width": pa.array(np.full(count, 340), pa.int16()),
            "height": pa.array(np.full(count, 256), pa.int16()),
            "fps": pa.array(np.full(count, 30), pa.float32()),
        }
    )


class _Ranks:
    """An actor with the iterators of some ranks, each in a thread, which read their batches and count them."""

    def __init__(self, shards: Sequence[Any], prefetch_batches: int) -> None:
        self._steps = [0] * len(shards)
        self._failures: list[str] = []
        for rank, shard in enumerate(shards):
            threading.Thread(
                target=self._drain, args=(rank, shard, prefetch_batches), daemon=True
            ).start()

    def _drain(self, rank: int, shard: Any, prefetch_batches: int) -> None:
        try:
            for batch in iterate(shard, prefetch_batches):
                self._steps[rank] += int((batch.videos >= 0).any())
        except Exception as error:  # `steps` raises it, since no more counts will come
            self._failures.append(f"{type(error).__name__}: {error}")

    def steps(self) -> list[int]:
        """Return the number of batches of each rank."""
        if self._failures:
            raise RuntimeError(f"the stream of a rank failed: {self._failures[0]}")
        return list(self._steps)


def measure(
    loads: Sequence[Load], *, num_segments: int, size: int, seconds: float, rounds: int
) -> dict[str, Any]:
    """Return the CPU milliseconds per clip of each part, clips/s and blocks/s, as medians over the rounds.

    The loads take turns. Each is measured after every rank has had its first block of full size, for ``seconds`` and
    until all ranks have had the same number of steps. ``spread`` is the smallest and largest ``ms_per_clip``. Raises
    ``RuntimeError`` if a stream yields no step for `STILL_S`.
    """
    import ray

    videos = ray.put(made_up_videos(NUM_VIDEOS))
    found: dict[Load, list[dict[str, Any]]] = {load: [] for load in loads}
    for number, load in itertools.product(range(rounds), loads):
        spec = StreamSpec(
            videos=videos,
            num_videos=NUM_VIDEOS,
            global_batch=load.ranks * load.clips,
            clip=ClipSpec(num_segments=num_segments, size=size),
            num_epochs=10**6,
            shuffle=True,
            quarantine=quarantine(),
            block_bytes=BLOCK_BYTES,
            views=ready_views,
        )
        one = _once(spec, load, seconds)
        found[load].append(one)
        logger.info(
            f"  round {number + 1} of {rounds}: {counted(load.ranks, 'rank')} x {counted(load.clips, 'clip')}, "
            f"{counted(load.streams, 'stream')}: "
            f"{one['ms_per_clip']:.3f} ms of CPU per clip, {one['clips_per_s']:.0f} clips/s"
        )
    return {
        "num_frames": num_segments,
        "size": size,
        "cores": os.cpu_count(),
        "rounds": rounds,
        "load": [round(each, 1) for each in os.getloadavg()],
        "rows": [_row(load, ones) for load, ones in found.items()],
    }


def _row(load: Load, ones: list[dict[str, Any]]) -> dict[str, Any]:
    def median(key: str) -> float:
        return statistics.median(one[key] for one in ones)

    parts = {
        part: statistics.median(one["parts"][part] for one in ones) for part in ones[0]["parts"]
    }
    one_process = max(parts["coordinators"], parts["plan"])
    total = [one["ms_per_clip"] for one in ones]
    return {
        **vars(load),
        "ms_per_clip": float(f"{median('ms_per_clip'):.4g}"),
        "spread": [float(f"{each:.4g}") for each in (min(total), max(total))],
        "parts": {part: float(f"{value:.3g}") for part, value in parts.items()},
        "clips_per_s": round(median("clips_per_s")),
        "blocks_per_s": round(median("blocks_per_s"), 1),
        # A coordinator and a plan are one process each, and Python runs one thread of a process at a time.
        "ceiling_clips_per_s": round(load.streams * 1000 / one_process),
    }


def _once(spec: StreamSpec, load: Load, seconds: float) -> dict[str, Any]:
    import ray

    shards = split(spec, load.ranks, num_streams=load.streams)
    prefetch = -(-spec.prefetch_batches // spec.steps_per_block(load.ranks))
    remote: Any = ray.remote
    ranks = remote(num_cpus=0, max_concurrency=2)(_Ranks)
    readers = [
        ranks.remote(shards[first : first + RANKS_PER_PROCESS], prefetch)
        for first in range(0, load.ranks, RANKS_PER_PROCESS)
    ]

    def next_round(known: int) -> int:
        """Wait for the next round of blocks; return the steps of the slowest rank when they exceed ``known``."""
        until = time.perf_counter() + STILL_S
        while True:
            steps = min(
                min(each) for each in ray.get([reader.steps.remote() for reader in readers])
            )
            if steps > known:
                return steps
            if time.perf_counter() > until:
                raise RuntimeError(
                    f"a stream for {counted(load.ranks, 'rank')} x {counted(load.clips, 'clip')} yielded no step for "
                    f"{STILL_S:.0f} s"
                )
            time.sleep(0.1)

    try:
        first = next_round(spec.steps_per_block(load.ranks))  # blocks have reached their full size
        before, begun = cpu_seconds(), time.perf_counter()
        time.sleep(seconds)
        steps = load.ranks * (next_round(first) - first)
        after, took = cpu_seconds(), time.perf_counter() - begun
    finally:
        coordinators = {shard._coord_actor for shard in shards}
        # Shut down before they are killed, because only this returns the executor's resources to Ray.
        ray.get([each.shutdown_executor.remote() for each in coordinators], timeout=60)
        for actor in [*readers, *coordinators]:
            ray.kill(actor)
    clips = steps * load.clips
    parts = {
        part: 1000 * (after[part] - before[part]) / clips
        for part in sorted({*PARTS.values(), "Ray itself"})
    }
    return {
        "parts": parts,
        "ms_per_clip": sum(parts.values()),
        "clips_per_s": clips / took,
        "blocks_per_s": steps / took,
    }


def cpu_seconds(root: int | None = None) -> dict[str, float]:
    """Return the CPU seconds so far, by part, of all descendants of the process ``root`` (None: this one)."""
    import psutil

    spent: dict[str, float] = defaultdict(float)
    for process in psutil.Process(root).children(recursive=True):
        try:
            title, times = " ".join(process.cmdline()), process.cpu_times()
        except psutil.Error:  # it has ended
            continue
        part = next(
            (part for begin, part in PARTS.items() if title.startswith(begin)), "Ray itself"
        )
        spent[part] += times.user + times.system
    return spent

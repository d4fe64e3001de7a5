"""How long a clip takes before and after preparing, measured on a sample and not assumed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stm.data.clips import ClipSpec, load_views
from stm.data.decode import VideoError
from stm.data.isolation import CallFailed, IsolatedProcess
from stm.data.manifest import Manifest

_ROUNDS = 3
_DEADLINE_S = 60.0
_COLUMNS = ("path", "num_frames", "width", "height", "codec")


@dataclass(frozen=True)
class Timing:
    """Milliseconds that one core takes to decode a clip: the mean over videos of medians."""

    num_videos: int
    before_ms: float
    after_ms: float


@dataclass(frozen=True)
class Timings:
    """Before and after, over all videos of the sample and by the codec they had before."""

    overall: Timing
    by_codec: dict[str, Timing]
    num_segments: int
    size: int


def time_clips(
    before: Manifest, after: Manifest, most: int, *, num_segments: int = 8, size: int = 224
) -> Timings | None:
    """Decode the same clip of up to `most` videos from both manifests; None if there is none.

    The videos are spread over the manifest, both sides take turns, and what counts is the median of
    three rounds, in a process of its own with one thread. A video that fails is left out.
    """
    both = np.intersect1d(before.usable, after.usable)
    rows = both[np.unique(np.linspace(0, len(both) - 1, min(most, len(both))).astype(int))]
    spec = ClipSpec(num_segments=num_segments, size=size)
    tables = [each.table.select(_COLUMNS).take(rows).to_pylist() for each in (before, after)]
    medians: dict[str, list[NDArray[np.float64]]] = {}
    with IsolatedProcess(preload=["stm.data.prepare_timing", "stm.data.decode.reader"]) as process:
        for pair in zip(*tables, strict=True):
            taken: list[list[float]] = []
            try:
                for _ in range(1 + _ROUNDS):  # the first warms caches and is not counted
                    taken.append(
                        [process.call(clip_ms, row, spec, deadline_s=_DEADLINE_S) for row in pair]
                    )
            except (VideoError, CallFailed):
                continue
            medians.setdefault(pair[0]["codec"], []).append(np.median(taken[1:], axis=0))
    if not medians:
        return None
    by_codec = {codec: _mean(each) for codec, each in sorted(medians.items())}
    overall = _mean([median for each in medians.values() for median in each])
    return Timings(overall, by_codec, num_segments, size)


def _mean(medians: list[NDArray[np.float64]]) -> Timing:
    before_ms, after_ms = np.mean(medians, axis=0).tolist()
    return Timing(len(medians), before_ms, after_ms)


def clip_ms(row: dict[str, Any], spec: ClipSpec) -> float:
    """Milliseconds to read one clip of the video of a manifest's row."""
    begun = time.perf_counter()
    load_views(row["path"], row["num_frames"], row["width"], row["height"], 0, 0, spec)
    return (time.perf_counter() - begun) * 1000

"""Measure how long a clip takes to decode before and after preparing.

The measure is the CPU time of a process with one thread. It excludes waits for a slow disk and for
other work on the machine.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stm.data import decode
from stm.data.decode import VideoError
from stm.data.isolation import CallFailed, IsolatedProcess
from stm.data.manifest import Manifest
from stm.data.stream import sampling
from stm.data.stream.clips import ClipSpec, load_views

_ROUNDS = 3
_DEADLINE_S = 60.0
CLIP = ClipSpec(num_segments=8, size=224)
"""The clip that is timed."""

Video = tuple[str, int, int, int]
"""(path, number of frames, width, height), as the manifest has them."""

_COLUMNS = ("path", "num_frames", "width", "height")


@dataclass(frozen=True)
class Timing:
    """CPU milliseconds to decode a clip: the mean over videos of the median per video."""

    num_videos: int
    before_ms: float
    after_ms: float


@dataclass(frozen=True)
class Timings:
    """Times before and after preparing, over all videos of the sample and by original codec."""

    overall: Timing
    by_codec: dict[str, Timing]
    num_segments: int
    size: int


def time_clips(before: Manifest, after: Manifest, most: int) -> Timings | None:
    """Decode the same clip of up to `most` videos from both manifests; None if there are none.

    The videos are spread over the manifest. Both versions take turns in a separate process with one
    thread, and the median of three rounds counts. A video that fails is left out.
    """
    both = np.intersect1d(before.usable, after.usable)
    rows = both[np.unique(np.linspace(0, len(both) - 1, min(most, len(both))).astype(int))]
    codecs = before.table["codec"].take(rows).to_pylist()
    videos = [
        [tuple(row.values()) for row in each.table.select(_COLUMNS).take(rows).to_pylist()]
        for each in (before, after)
    ]
    medians: dict[str, list[NDArray[np.float64]]] = {}
    with IsolatedProcess(preload=["stm.data.prepare.timing", "stm.data.decode.reader"]) as process:
        for codec, *pair in zip(codecs, *videos, strict=True):
            taken: list[list[float]] = []
            try:
                for _ in range(1 + _ROUNDS):  # the first warms caches and is not counted
                    taken.append(
                        [process.call(clip_ms, *video, deadline_s=_DEADLINE_S) for video in pair]
                    )
            except (VideoError, CallFailed):
                continue
            medians.setdefault(codec, []).append(np.median(taken[1:], axis=0))
    if not medians:
        return None
    by_codec = {codec: _mean(each) for codec, each in sorted(medians.items())}
    overall = _mean([median for each in medians.values() for median in each])
    return Timings(overall, by_codec, CLIP.num_segments, CLIP.size)


def _mean(medians: list[NDArray[np.float64]]) -> Timing:
    before_ms, after_ms = np.mean(medians, axis=0).tolist()
    return Timing(len(medians), before_ms, after_ms)


def clip_ms(path: str, num_frames: int, width: int, height: int) -> float:
    """CPU milliseconds to read one clip of the video."""
    begun = time.process_time()
    load_views(path, num_frames, width, height, 0, 0, CLIP)
    return (time.process_time() - begun) * 1000


def compare_ms(before: str, after: str, num_frames: int) -> tuple[float, float]:
    """CPU milliseconds to decode a clip from two videos of the same frames, in this process.

    The times are medians of rounds, as in `time_clips`. Only whole frames are decoded: cropping and
    resizing is no slower for the smaller pictures of a prepared video, and would import torch.
    """
    indices = sampling.centre_indices(num_frames, CLIP.num_segments).tolist()
    rounds = [[_decode_ms(path, indices) for path in (before, after)] for _ in range(1 + _ROUNDS)]
    before_ms, after_ms = np.median(rounds[1:], axis=0).tolist()
    return before_ms, after_ms


def _decode_ms(path: str, indices: list[int]) -> float:
    begun = time.process_time()
    decode.read_frames(path, indices)
    return (time.process_time() - begun) * 1000

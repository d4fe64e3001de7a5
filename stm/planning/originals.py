"""What it costs to decode videos as they are, and whether to prepare them first: from sizes and key frames alone.

A clip of T frames decodes, for each of them, what lies between it and the key frame before: half an interval on
average, and never more than the video. A frame costs in proportion to its pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from stm.plural import counted

MS_PER_MEGAPIXEL = 2.4
"""CPU time of decoding: measured of H.264 at 340x256 and at 1280x720, both with a key frame every 250 frames, 2.4 and
2.3 (docs/benchmarks.md); HEVC took 5.4."""

PREPARED_SHORT_SIDE, PREPARED_INTERVAL = 256, 16
"""What `stm prepare` makes by default."""

WORTH = 3.0
"""Originals that cost so many times as much as prepared ones are told."""


@dataclass(frozen=True)
class Originals:
    """CPU milliseconds a clip, estimated, and the medians that they follow from."""

    ms: float
    prepared_ms: float
    width: int
    height: int
    num_frames: int
    keyframe_interval: int
    """0 where it is not known: the whole video is decoded."""

    @property
    def should_be_prepared(self) -> bool:
        return self.ms >= WORTH * self.prepared_ms

    def said(self, gpu_clips_per_s: float | None = None) -> str:
        """The estimate, in one sentence."""
        keys = f"a key frame every {counted(self.keyframe_interval, 'frame')}"
        if not self.keyframe_interval:
            keys = "unknown key frames"
        told = (
            f"videos of {self.width}x{self.height} with {keys} take about {self.ms:.0f} ms of a core a clip, prepared "
            f"ones about {self.prepared_ms:.0f}"
        )
        if gpu_clips_per_s is None:
            return told
        now, prepared = (
            math.ceil(gpu_clips_per_s * ms / 1000) for ms in (self.ms, self.prepared_ms)
        )
        return f"{told}: {counted(now, 'core')} for one GPU, or {prepared}"


def estimate(
    num_segments: int,
    width_N: np.ndarray,
    height_N: np.ndarray,
    num_frames_N: np.ndarray,
    keyframe_interval_N: np.ndarray,
) -> Originals:
    """Of the columns of a manifest's usable rows, all numbers; the mean over its videos."""
    pixels_N = width_N.astype(np.float64) * height_N
    short_N = np.maximum(np.minimum(width_N, height_N).astype(np.float64), 1.0)
    scale_N = np.minimum(1.0, PREPARED_SHORT_SIDE / short_N)
    interval_N = np.where(keyframe_interval_N > 0, keyframe_interval_N, num_frames_N)
    shorter_N = np.minimum(interval_N, PREPARED_INTERVAL)
    return Originals(
        ms=_mean_ms(pixels_N, interval_N, num_frames_N, num_segments),
        prepared_ms=_mean_ms(pixels_N * scale_N**2, shorter_N, num_frames_N, num_segments),
        width=int(np.median(width_N)),
        height=int(np.median(height_N)),
        num_frames=int(np.median(num_frames_N)),
        keyframe_interval=int(np.median(keyframe_interval_N)),
    )


def _mean_ms(
    pixels_N: np.ndarray, interval_N: np.ndarray, num_frames_N: np.ndarray, num_segments: int
) -> float:
    decoded_N = np.minimum(num_segments * (interval_N / 2 + 0.5), num_frames_N)
    return float(np.mean(decoded_N * pixels_N)) * MS_PER_MEGAPIXEL / 1e6

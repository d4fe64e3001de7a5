"""Choose the T frames of a clip from a video.

    segments    one frame from each of T equal parts of the whole video (paper, section 4.1; TSN's sparse sampling)
    dense       T frames at a fixed stride, as is usual for Kinetics (8x8, 16x4)
    seconds     T frames from a window of fixed duration, so that the frame rate does not matter

The ``place`` of a window runs from 0 (the first possible window) to 1 (the last). A video shorter than the window is
looped, as in TSM and mmaction2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def centre_indices(num_frames: int, num_segments: int) -> np.ndarray:
    """The middle frame of each of ``num_segments`` equal segments: the test clip.

    Returns int64 [T], rising; a video shorter than T repeats frames.
    """
    centres = (np.arange(num_segments) + 0.5) * num_frames / num_segments
    return centres.astype(np.int64)


def random_indices(
    num_frames: int,
    num_segments: int,
    generator: np.random.Generator,
    *,
    place: float = 0.0,
    share: float = 1.0,
) -> np.ndarray:
    """One frame drawn evenly from each of ``num_segments`` equal segments: the training clip.

    A draw is continuous and rounded down, so segments of a fractional number of frames lose none, and a video
    shorter than T repeats frames. The segments cover a ``share`` of the video, which lies at ``place``.
    Returns int64 [T], rising. Consumes T draws of ``generator``.
    """
    stretch = num_frames * share
    draws = (np.arange(num_segments) + generator.random(num_segments)) * stretch / num_segments
    draws += place * (num_frames - stretch)
    return np.minimum(draws.astype(np.int64), num_frames - 1)


def dense_indices(
    num_frames: int, num_segments: int, stride: float, place: float = 0.5
) -> NDArray[np.int64]:
    """``num_segments`` frames, each ``stride`` after the one before, in a window at ``place``.

    Every possible start corresponds to an equal part of [0, 1]. Returns int64 [T], rising unless the video is shorter
    than the window and is looped.
    """
    offsets = (np.arange(num_segments) * stride).astype(np.int64)
    starts = max(num_frames - int(offsets[-1]), 1)
    return (min(int(place * starts), starts - 1) + offsets) % num_frames


def timed_indices(
    times_s: NDArray[np.float64], num_segments: int, window_s: float, place: float = 0.5
) -> NDArray[np.int64]:
    """The frames shown in the middle of each of ``num_segments`` equal parts of a window of time at ``place``.

    Args:
        times_s: float64 [N], rising from 0: when each frame of the video appears. The last frame is shown for the
            mean duration of the others. A single frame is shown for ever.

    Returns:
        int64 [T], rising unless the video is shorter than the window and is looped.
    """
    num_frames = len(times_s)
    duration_s = times_s[-1] * num_frames / (num_frames - 1) if num_frames > 1 else np.inf
    start_s = place * max(duration_s - window_s, 0.0) if num_frames > 1 else 0.0
    wanted_s = start_s + (np.arange(num_segments) + 0.5) * window_s / num_segments
    return np.searchsorted(times_s, wanted_s % duration_s, side="right") - 1

"""Segments to frame numbers: which frames of a video make a clip (paper, section 4.1; TSN's sparse sampling)."""

from __future__ import annotations

import numpy as np


def centre_indices(num_frames: int, num_segments: int) -> np.ndarray:
    """The middle frame of each of ``num_segments`` equal segments: the test clip.

    Returns int64 [T], rising; a video shorter than T repeats frames.
    """
    centres = (np.arange(num_segments) + 0.5) * num_frames / num_segments
    return centres.astype(np.int64)


def random_indices(
    num_frames: int, num_segments: int, generator: np.random.Generator
) -> np.ndarray:
    """One frame drawn evenly from each of ``num_segments`` equal segments: the training clip.

    A draw is continuous and rounded down, so segments of a fractional number of frames lose none, and a video
    shorter than T repeats frames. Returns int64 [T], rising. Consumes T draws of ``generator``.
    """
    draws = (np.arange(num_segments) + generator.random(num_segments)) * num_frames / num_segments
    return np.minimum(draws.astype(np.int64), num_frames - 1)

"""Segments to frame numbers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stm.data.stream.sampling import centre_indices, random_indices

lengths = st.integers(1, 500)
segments = st.integers(1, 32)


def test_the_test_clip_is_the_centre_of_each_segment():
    assert centre_indices(24, 8).tolist() == [1, 4, 7, 10, 13, 16, 19, 22]
    assert centre_indices(80, 8).tolist() == [5, 15, 25, 35, 45, 55, 65, 75]


def test_a_video_shorter_than_the_clip_repeats_frames():
    assert centre_indices(3, 8).tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert set(random_indices(3, 8, np.random.default_rng(0)).tolist()) == {0, 1, 2}
    assert random_indices(1, 8, np.random.default_rng(0)).tolist() == [0] * 8


@given(num_frames=lengths, num_segments=segments, seed=st.integers(0, 1000))
def test_each_frame_lies_in_its_segment_and_in_the_video(num_frames, num_segments, seed):
    for indices in (
        random_indices(num_frames, num_segments, np.random.default_rng(seed)),
        centre_indices(num_frames, num_segments),
    ):
        assert len(indices) == num_segments
        assert (np.diff(indices) >= 0).all()
        borders = np.arange(num_segments + 1) * num_frames / num_segments
        assert (indices + 1 > borders[:-1]).all()  # the frame's span touches its segment
        assert (indices <= borders[1:]).all()
        assert indices.max() < num_frames


def test_every_frame_can_be_drawn_and_about_equally_often():
    drawn = np.concatenate(
        [random_indices(25, 8, np.random.default_rng(seed)) for seed in range(2000)]
    )
    counts = np.bincount(drawn, minlength=25)
    expected = 2000 * 8 / 25
    assert (abs(counts - expected) < 0.2 * expected).all()


def test_the_same_seed_draws_the_same_frames():
    a, b = (random_indices(100, 8, np.random.default_rng(5)) for _ in range(2))
    assert a.tolist() == b.tolist()

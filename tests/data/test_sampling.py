"""Segments to frame numbers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stm.data.stream.sampling import (
    centre_indices,
    dense_indices,
    random_indices,
    timed_indices,
)

lengths = st.integers(1, 500)
segments = st.integers(1, 32)
places = st.floats(0, 1, exclude_max=True)


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


def test_a_dense_clip_is_a_window_of_frames_at_a_stride():
    assert dense_indices(100, 8, 8).tolist() == [22, 30, 38, 46, 54, 62, 70, 78]
    assert dense_indices(100, 8, 8, 0.0).tolist() == [0, 8, 16, 24, 32, 40, 48, 56]
    assert dense_indices(100, 8, 8, 0.999).tolist() == [43, 51, 59, 67, 75, 83, 91, 99]
    assert dense_indices(64, 16, 4).tolist() == list(range(2, 66, 4))


def test_a_video_shorter_than_the_window_is_looped():
    assert dense_indices(10, 4, 4, 0.7).tolist() == [0, 4, 8, 2]
    assert dense_indices(1, 4, 4, 0.7).tolist() == [0] * 4
    assert timed_indices(np.arange(10) / 10, 4, 2.0, 0.7).tolist() == [2, 7, 2, 7]
    assert timed_indices(np.zeros(1), 4, 2.0).tolist() == [0] * 4


@given(num_frames=lengths, num_segments=segments, stride=st.integers(1, 16), place=places)
def test_a_dense_window_keeps_its_stride_inside_the_video(num_frames, num_segments, stride, place):
    indices = dense_indices(num_frames, num_segments, stride, place)
    assert (np.diff(indices) % num_frames == stride % num_frames).all()
    assert 0 <= indices.min() <= indices.max() < num_frames
    if num_frames > (num_segments - 1) * stride:
        assert (np.diff(indices) == stride).all()


def test_each_start_of_a_dense_window_is_as_likely_as_another():
    starts = [dense_indices(16, 4, 4, place)[0] for place in np.linspace(0, 1, 4001)[:-1]]
    assert np.bincount(starts).tolist() == [1000] * 4


def test_a_window_of_time_shows_the_same_moments_at_any_rate():
    for fps in (10, 25, 60):
        times_s = np.arange(20 * fps) / fps
        moments = timed_indices(times_s, 8, 4.0, 0.25) / fps
        assert np.abs(moments - (4 + 0.25 + 0.5 * np.arange(8))).max() < 1 / fps + 1e-9


def test_a_window_of_time_goes_by_the_times_of_the_frames():
    """Half a second of many frames, then one a second."""
    times_s = np.array([0, 0.1, 0.2, 0.3, 0.4, 0.5, 1.5, 2.5, 3.5])
    assert timed_indices(times_s, 4, 3.5, 0.0).tolist() == [4, 5, 6, 7]
    assert timed_indices(times_s, 1, 0.1, 0.0).tolist() == [0]


@given(
    gaps=st.lists(st.floats(0.001, 5), min_size=1, max_size=50),
    num_segments=segments,
    window_s=st.floats(0.01, 100),
    place=places,
)
def test_a_window_of_time_lies_in_the_video(gaps, num_segments, window_s, place):
    times_s = np.cumsum([0, *gaps])
    indices = timed_indices(times_s, num_segments, window_s, place)
    assert len(indices) == num_segments
    assert 0 <= indices.min() <= indices.max() < len(times_s)
    if window_s < times_s[-1]:
        assert (np.diff(indices) >= 0).all()
        assert times_s[indices[-1]] - times_s[indices[0]] < window_s + max(gaps)


@given(num_frames=lengths, num_segments=segments, place=places, share=st.floats(0.1, 1))
def test_segments_of_a_stretch_lie_in_it(num_frames, num_segments, place, share):
    generator = np.random.default_rng(0)
    indices = random_indices(num_frames, num_segments, generator, place=place, share=share)
    first = place * num_frames * (1 - share)
    assert first - 1 < indices.min() <= indices.max() < first + num_frames * share + 1e-6

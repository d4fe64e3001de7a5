"""Every frame of a film is seen by the network, once, in the segment it lies in."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stm.data.stream.sampling import centre_indices
from stm.explain import frames

lengths, segments = st.integers(1, 400), st.integers(1, 16)


@given(lengths, segments, st.integers(1, 300))
def test_each_frame_is_dealt_once_into_its_own_segment(num_frames, num_segments, most):
    shown = frames.film_frames(num_frames, max(most, num_segments))
    clips, clip_of, segment_of = frames.deal(shown, num_frames, num_segments)
    np.testing.assert_array_equal(clips[clip_of, segment_of], np.arange(len(shown)))
    np.testing.assert_array_equal(segment_of, frames.segments_of(shown, num_frames, num_segments))
    assert clips.shape[1] == num_segments
    filled = np.unique(segment_of)
    in_clips = frames.segments_of(shown[clips[:, filled]], num_frames, num_segments)
    np.testing.assert_array_equal(in_clips, np.broadcast_to(filled, in_clips.shape))
    assert (np.diff(clips, axis=1) >= 0).all()  # time runs forwards in every clip


@given(lengths, segments, st.integers(1, 300), st.integers(1, 6))
def test_each_frame_is_dealt_once_into_its_own_window(num_frames, num_segments, most, num_windows):
    shown = frames.film_frames(num_frames, most)
    clips, clip_of, place = frames.deal(shown, num_frames, num_segments, num_windows)
    np.testing.assert_array_equal(clips[clip_of, place], np.arange(len(shown)))
    assert (np.diff(clips, axis=1) >= 0).all()
    window_of = frames.segments_of(shown, num_frames, num_windows)
    assert (np.diff(clip_of[np.argsort(window_of, kind="stable")]) > -len(clips)).all()
    for clip in np.unique(clip_of):  # the frames that a clip is there for are of one window
        assert len(np.unique(window_of[clip_of == clip])) == 1


@given(lengths, segments)
def test_the_middle_frame_of_a_segment_lies_in_it(num_frames, num_segments):
    if num_frames >= num_segments:
        middles = centre_indices(num_frames, num_segments)
        found = frames.segments_of(middles, num_frames, num_segments)
        np.testing.assert_array_equal(found, np.arange(num_segments))


def test_a_short_film_has_every_frame_and_a_long_one_is_thinned_evenly():
    np.testing.assert_array_equal(frames.film_frames(24, 256), np.arange(24))
    long = frames.film_frames(10_000, 256)
    assert len(np.unique(long)) == 256
    assert np.ptp(np.diff(long)) <= 1


def test_a_film_that_was_thinned_lasts_as_long_as_the_video():
    shown = frames.film_frames(1024, 256)
    blank = np.zeros((0, 8, 8, 3), np.uint8)
    pictures = frames.Pictures(blank, np.arange(0), blank, shown, num_frames=1024, fps=30.0)
    assert len(shown) / pictures.film_fps == 1024 / 30

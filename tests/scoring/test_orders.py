"""Orders of a clip's frames: what each is, that a shuffle follows from its seed alone and is never the clip itself."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stm.errors import UserError
from stm.scoring.orders import ORDERS, checked, frame_order, in_order

SEEDS = st.integers(0, 2**64 - 1)


@given(st.integers(2, 64), SEEDS)
def test_a_shuffle_holds_every_frame_once_and_is_never_the_clip_itself(num_frames, seed):
    drawn = frame_order("shuffled", num_frames, seed)
    assert sorted(drawn.tolist()) == list(range(num_frames))
    assert drawn.tolist() != list(range(num_frames))
    assert np.array_equal(drawn, frame_order("shuffled", num_frames, seed))


def test_a_shuffle_is_the_same_in_every_process_and_version():
    assert frame_order("shuffled", 8, 0).tolist() == [2, 6, 5, 3, 1, 0, 4, 7]
    assert frame_order("shuffled", 8, 2**64 - 1).tolist() == [2, 6, 7, 1, 0, 4, 3, 5]


def test_all_orders_but_one_are_drawn_equally_often():
    drawn = [tuple(frame_order("shuffled", 3, seed).tolist()) for seed in range(5000)]
    others = list(itertools.permutations(range(3)))[1:]
    counts = [drawn.count(order) for order in others]
    assert sum(counts) == 5000
    assert max(abs(count - 1000) for count in counts) < 120  # over four standard deviations


def test_two_frames_have_one_shuffle_and_one_frame_has_none():
    assert frame_order("shuffled", 2, 5).tolist() == [1, 0]
    assert [frame_order(order, 1, 5).tolist() for order in ORDERS] == [[0]] * 4


def test_views_of_a_sample_share_an_order_and_samples_do_not():
    frames = np.arange(8, dtype=np.uint8)
    clips = np.broadcast_to(frames[:, None, None, None], (2, 3, 8, 2, 2, 3))
    seeds = np.array([1, 2], np.uint64)
    for order in ORDERS:
        found = in_order(clips, order, seeds)
        assert (found.shape, found.dtype) == (clips.shape, np.uint8)
        for sample, seed in zip(found, seeds, strict=True):
            assert (sample == frame_order(order, 8, int(seed))[:, None, None, None]).all()
    assert in_order(clips, "still", seeds)[0, 0, :, 0, 0, 0].tolist() == [4] * 8
    assert in_order(clips, "reversed", seeds)[1, 2, :, 0, 0, 0].tolist() == list(range(8))[::-1]
    shuffled = in_order(clips, "shuffled", seeds)
    assert not np.array_equal(shuffled[0], shuffled[1])


def test_played_is_always_measured_and_what_is_no_order_is_named():
    assert checked(["still", "reversed", "still"]) == ("played", "reversed", "still")
    assert checked("shuffled") == ("played", "shuffled")
    with pytest.raises(
        UserError, match="--frames backwards: use played, reversed, shuffled or still"
    ):
        checked(["backwards"])

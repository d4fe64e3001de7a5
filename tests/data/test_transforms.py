"""Crop boxes and flips."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stm.data.stream.transforms import centre_box, long_side_boxes, random_view

SCALES = (1.0, 0.875, 0.75, 0.66)
sides = st.integers(16, 2000)


@given(width=sides, height=sides, seed=st.integers(0, 10_000))
def test_a_training_crop_lies_inside_the_picture(width, height, seed):
    view = random_view(width, height, SCALES, True, np.random.default_rng(seed))
    left, top, across, down = view.box
    assert left >= 0
    assert top >= 0
    assert left + across <= width + 1e-6
    assert top + down <= height + 1e-6
    shares = [across / min(width, height), down / min(width, height)]
    assert all(min(abs(share - scale) for scale in SCALES) < 1e-6 for share in shares)


def test_training_crops_take_every_corner_and_scale():
    views = [
        random_view(320, 240, SCALES, True, np.random.default_rng(seed)) for seed in range(500)
    ]
    assert {round(view.box[2] / 240, 3) for view in views} == {1.0, 0.875, 0.75, 0.66}
    assert {(view.box[0] == 0, view.box[1] == 0) for view in views} == {
        (True, True), (True, False), (False, True), (False, False)
    }  # fmt: skip


def test_half_the_clips_are_mirrored_and_none_where_it_is_not_allowed():
    mirrored = [
        random_view(320, 240, SCALES, True, np.random.default_rng(s)).flip for s in range(1000)
    ]
    assert 420 < sum(mirrored) < 580
    assert not any(
        random_view(320, 240, SCALES, False, np.random.default_rng(s)).flip for s in range(100)
    )


def test_switching_mirroring_off_leaves_the_crops_as_they_were():
    for seed in range(50):
        a, b = (
            random_view(320, 240, SCALES, flip, np.random.default_rng(seed))
            for flip in (True, False)
        )
        assert a.box == b.box


def test_the_test_crop_is_224_of_256_of_the_short_side():
    assert centre_box(340, 256) == pytest.approx((58, 16, 224, 224))
    assert centre_box(256, 340) == pytest.approx((16, 58, 224, 224))


def test_the_three_crops_span_the_long_side():
    assert long_side_boxes(340, 256) == [(0, 0, 256, 256), (42, 0, 256, 256), (84, 0, 256, 256)]
    assert long_side_boxes(256, 340) == [(0, 0, 256, 256), (0, 42, 256, 256), (0, 84, 256, 256)]

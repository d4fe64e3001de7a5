"""Crop boxes and flips."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stm.data.stream.transforms import (
    PLACES,
    centre_box,
    long_side_boxes,
    random_resized_box,
    random_view,
)

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


def test_the_corner_crop_of_thirteen_places_takes_all_of_them():
    def places(num_places):
        found = set()
        for seed in range(400):
            box, _ = random_view(300, 200, [0.5], True, np.random.default_rng(seed), num_places)
            found.add((box[0] / 200, box[1] / 100))
        return found

    assert places(13) == set(PLACES)
    assert places(5) == {(0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5)}


@given(width=sides, height=sides, seed=st.integers(0, 10_000))
def test_a_resized_crop_lies_inside_the_picture(width, height, seed):
    areas, ratios = (0.08, 1.0), (0.75, 1.3333)
    left, top, across, down = random_resized_box(
        width, height, areas, ratios, np.random.default_rng(seed)
    )
    assert left >= -1e-6
    assert top >= -1e-6
    assert left + across <= width + 1e-6
    assert top + down <= height + 1e-6
    assert ratios[0] - 1e-6 <= across / down <= ratios[1] + 1e-6


def test_resized_crops_have_the_areas_that_were_asked_for():
    boxes = [
        random_resized_box(320, 240, (0.2, 0.6), (0.75, 1.25), np.random.default_rng(seed))
        for seed in range(1000)
    ]
    shares = np.array([across * down / (320 * 240) for _, _, across, down in boxes])
    assert 0.2 <= shares.min() < 0.22
    assert 0.57 < shares.max() <= 0.6
    assert abs(shares.mean() - 0.4) < 0.02
    assert len({round(box[0]) for box in boxes}) > 100

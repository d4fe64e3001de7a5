"""Accuracy counts every video of the manifest, the unreadable ones as wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stm.errors import UserError
from stm.evaluate.protocols import protocol
from stm.scoring.metrics import measure


def test_counts_by_hand():
    scores = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.6, 0.4, 0.0], [0.0, 0.0, 0.0]])
    labels = np.array([0, 1, 1, 2])
    metrics = measure(scores, labels, np.array([True, True, True, False]))
    assert metrics.num_videos == 4
    assert metrics.unreadable == 1
    assert metrics.top1 == 0.5
    assert metrics.per_class == [1.0, 0.5, 0.0]
    assert metrics.mean_class_accuracy == pytest.approx(0.5)
    assert metrics.confusion.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]


def test_an_unreadable_video_is_wrong_even_where_zeros_would_win():
    metrics = measure(np.zeros((2, 3)), np.array([0, 0]), np.array([False, False]))
    assert metrics.top1 == metrics.top5 == 0


def test_a_class_that_does_not_occur_is_left_out_of_the_mean():
    metrics = measure(np.eye(3)[:2], np.array([0, 1]), np.array([True, True]))
    assert metrics.per_class == [1.0, 1.0, None]
    assert metrics.mean_class_accuracy == 1.0


@given(num_videos=st.integers(1, 40), num_classes=st.integers(2, 12), seed=st.integers(0, 999))
def test_top_5_agrees_with_sorting_each_video(num_videos, num_classes, seed):
    generator = np.random.default_rng(seed)
    scores = generator.random((num_videos, num_classes))
    labels = generator.integers(0, num_classes, num_videos)
    metrics = measure(scores, labels, np.ones(num_videos, dtype=bool))
    hits = [
        label in sorted(range(num_classes), key=lambda k: -row[k])[:5]
        for row, label in zip(scores, labels, strict=True)
    ]
    assert metrics.top5 == pytest.approx(np.mean(hits))
    assert metrics.confusion.sum() == num_videos
    assert np.trace(metrics.confusion) / num_videos == pytest.approx(metrics.top1)


def test_the_protocols_are_the_papers():
    assert protocol("efficient").num_views == 1
    assert protocol("accurate").num_views == 30


def test_an_unknown_protocol_is_refused():
    with pytest.raises(UserError, match="efficient or accurate"):
        protocol("10-crop")

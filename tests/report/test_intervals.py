"""Intervals: known values, both ends, and that they hold the truth as often as they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stm.report.intervals import mean_of_shares, wilson


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe (Statistics in Medicine 17, 1998), table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_is_the_published_one(successes, total, low, high):
    assert wilson(successes, total) == pytest.approx((low, high), abs=6e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_share_and_stays_between_none_and_all(counts):
    successes, total = counts
    interval = wilson(successes, total)
    assert 0 <= interval.low <= successes / total <= interval.high <= 1
    assert interval.high - interval.low > 0.0


def test_all_right_is_not_certain_for_the_mean_over_classes_either():
    few = mean_of_shares([2] * 5, [2] * 5)
    many = mean_of_shares([50] * 5, [50] * 5)
    assert few.high == many.high == 1
    assert few.low < many.low < 1


def test_a_class_without_videos_takes_no_part_in_the_mean():
    assert mean_of_shares([3, 0, 4], [5, 0, 5]) == mean_of_shares([3, 4], [5, 5])
    assert mean_of_shares([0], [0]) == (0, 1)


@pytest.mark.parametrize(
    ("num_classes", "least", "fewest", "most"),
    [(5, 0.3, 3, 10), (20, 0.9, 5, 40), (400, 0.3, 2, 4), (5, 0.95, 5, 20)],
)
def test_the_interval_of_the_mean_holds_the_truth_as_often_as_it_promises(
    num_classes, least, fewest, most
):
    generator = np.random.default_rng(0)
    held = []
    for _ in range(600):
        truth = generator.uniform(least, 1.0, num_classes)
        totals = generator.integers(fewest, most + 1, num_classes)
        interval = mean_of_shares(generator.binomial(totals, truth).tolist(), totals.tolist())
        held.append(interval.low <= truth.mean() <= interval.high)
    assert np.mean(held) >= 0.935  # 95 %, less what chance may take of 600 tries

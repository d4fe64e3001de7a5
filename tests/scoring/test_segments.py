"""Segments of windows: what holds for any scores, and the changes of a known sequence."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stm.errors import UserError
from stm.results import WindowPrediction
from stm.scoring.segments import segments

CLASSES = ("a", "b", "c")


def windows_of(rows, window_s=2.0, stride_s=1.0):
    """Windows of these scores, a list of K each; None has no answer."""
    return [
        WindowPrediction(
            start_s=k * stride_s,
            end_s=k * stride_s + window_s,
            scores=None if row is None else np.array(row, float),
            error="damage" if row is None else None,
        )
        for k, row in enumerate(rows)
    ]


def found(rows, window_s=2.0, stride_s=1.0, **options):
    return list(segments(windows_of(rows, window_s, stride_s), CLASSES, **options))


def spans(rows, name="a", **options):
    return [(s.start_s, s.end_s) for s in found(rows, **options) if s.name == name]


def test_a_change_lies_between_the_middles_of_the_windows_on_either_side():
    a, b = [0.9, 0.05, 0.05], [0.05, 0.9, 0.05]
    rows = [a] * 4 + [b] * 4
    assert spans(rows) == [(0.0, 4.5)]
    assert spans(rows, "b") == [(4.5, 9.0)]
    assert spans(rows, window_s=1.0) == [(0.0, 4.0)]


def test_a_score_that_wavers_between_the_thresholds_makes_one_segment():
    rows = [[s, 0, 0] for s in (0.1, 0.35, 0.6, 0.4, 0.55, 0.31, 0.2)]
    assert spans(rows) == [(1.5, 6.5)]
    assert len(spans(rows, leave=0.5)) == 2
    assert spans(rows, enter=0.7) == []
    assert spans(rows, min_s=5.1) == []
    (segment,) = found(rows)
    assert segment["class"] == "a"
    assert segment.score == pytest.approx(np.mean([0.35, 0.6, 0.4, 0.55, 0.31]))
    assert segment.peak == 0.6


def test_segments_end_where_nothing_was_seen():
    a = [0.9, 0, 0]
    assert spans([a, a, None, a, a]) == [(0.0, 2.5), (3.5, 6.0)]
    assert spans([a, a, a], window_s=0.5) == [(0.0, 0.5), (1.0, 1.5), (2.0, 2.5)]


@pytest.mark.parametrize("options", [{"enter": 0.2}, {"leave": 0.0}, {"enter": 1.1}, {"min_s": -1}])
def test_thresholds_out_of_order_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        found([], **options)


def test_a_refused_number_is_told_with_all_its_digits():
    with pytest.raises(UserError, match=r"--min_s -1234567\.25: must not be negative"):
        found([], min_s=-1234567.25)


ROWS = st.lists(
    st.none() | st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.4, 0.5, 0.7, 1.0]), min_size=3, max_size=3),
    max_size=30,
)  # fmt: skip
STRIDES = st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.0])


@given(ROWS, STRIDES, st.sampled_from([0.4, 0.5, 0.7]), st.sampled_from([0.1, 0.3, 0.4]))
def test_a_segment_is_a_longest_run_above_leave_with_one_above_enter(rows, stride_s, enter, leave):
    options = {"stride_s": stride_s, "enter": enter, "leave": leave}
    windows = windows_of(rows, stride_s=stride_s)
    for k, name in enumerate(CLASSES):
        inside = [(s.start_s, s.end_s) for s in found(rows, **options) if s.name == name]
        for (_, end), (start, _) in itertools.pairwise(inside):
            assert end <= start, "they do not overlap"
        covered = np.zeros(len(rows), int)
        for start, end in inside:
            middles = [(w.start_s + w.end_s) / 2 for w in windows]
            members = [n for n, at in enumerate(middles) if start <= at <= end]
            scores = [rows[n][k] for n in members]
            assert min(scores) >= leave
            assert max(scores) >= enter
            covered[members] += 1
        for row, times in zip(rows, covered, strict=True):
            if row is not None and row[k] >= enter:
                assert times == 1, "what is above enter is in exactly one"


@given(ROWS, STRIDES)
def test_a_video_played_backwards_has_its_segments_backwards(rows, stride_s):
    forwards = {(s.name, s.start_s, s.end_s) for s in found(rows, stride_s=stride_s)}
    end = (len(rows) - 1) * stride_s + 2.0
    backwards = {
        (s.name, end - s.end_s, end - s.start_s) for s in found(rows[::-1], stride_s=stride_s)
    }
    assert forwards == backwards


@given(ROWS, STRIDES)
def test_a_lower_threshold_to_leave_only_widens_segments(rows, stride_s):
    strict = found(rows, stride_s=stride_s, leave=0.5)
    wide = found(rows, stride_s=stride_s, leave=0.2)
    for one in strict:
        assert any(
            w.name == one.name and w.start_s <= one.start_s and one.end_s <= w.end_s for w in wide
        )


@given(ROWS, STRIDES, st.sampled_from([0.5, 1.5, 4.0]))
def test_a_shortest_length_drops_segments_and_changes_none(rows, stride_s, min_s):
    every = found(rows, stride_s=stride_s)
    assert [s.as_dict() for s in found(rows, stride_s=stride_s, min_s=min_s)] == [
        s.as_dict() for s in every if s.end_s - s.start_s >= min_s
    ]

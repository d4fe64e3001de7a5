"""The order of a confusion matrix, the largest confusions, calibration, and the hardest videos."""

from __future__ import annotations

import numpy as np
import pytest

from stm.report.calibration import calibrate
from stm.report.confusions import most_confused, seriate
from stm.report.hardest import choose


def groups_of(num_groups, size, seed=0):
    """A matrix whose classes are confused within groups alone, and the group of each class, shuffled."""
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(num_groups), size))
    confusion = np.where(groups[:, None] == groups[None, :], 2, 0)
    np.fill_diagonal(confusion, 20)
    return confusion, groups


@pytest.mark.parametrize(("num_groups", "size"), [(3, 4), (40, 10)])
def test_classes_that_are_confused_lie_side_by_side(num_groups, size):
    confusion, groups = groups_of(num_groups, size)
    order = seriate(confusion)
    assert sorted(order) == list(range(len(groups)))
    changes = np.count_nonzero(np.diff(groups[order]))
    assert changes == num_groups - 1  # each group is one piece
    assert np.count_nonzero(np.diff(groups)) > num_groups  # and was not before


def test_a_matrix_without_confusions_keeps_its_order():
    assert seriate(np.diag([3, 4, 5])).tolist() == [0, 1, 2]
    assert seriate(np.zeros((2, 2), dtype=int)).tolist() == [0, 1]


def test_classes_confused_with_none_come_last():
    confusion = np.diag([5, 5, 5, 5])
    confusion[0, 3] = confusion[3, 2] = 2
    assert seriate(confusion)[-1] == 1


def test_the_largest_confusions_are_listed_and_the_diagonal_is_not():
    confusion = np.array([[50, 3, 0], [0, 5, 3], [1, 0, 9]])
    listed = [(p.true, p.answered, p.count) for p in most_confused(confusion, 2)]
    assert listed == [(1, 2, 3), (0, 1, 3)]  # of three each, the greater share of its class first
    assert most_confused(confusion, 2)[0].share == pytest.approx(3 / 8)


def test_a_network_as_right_as_it_is_sure_passes_and_a_boastful_one_does_not():
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.2, 1.0, 2000)
    honest = calibrate(confidence, generator.random(2000) < confidence)
    boastful = calibrate(confidence, generator.random(2000) < confidence**3)
    assert honest.ece < honest.ece_by_chance[1] < boastful.ece
    assert boastful.mean_confidence > boastful.accuracy
    assert sum(bin_.num_videos for bin_ in honest.bins) == 2000


def test_the_calibration_error_is_the_mean_gap_over_videos():
    confidence = np.array([0.9, 0.9, 0.9, 0.9, 0.5])
    correct = np.array([True, True, True, False, False])
    assert calibrate(confidence, correct).ece == pytest.approx(0.8 * 0.15 + 0.2 * 0.5)
    assert calibrate(np.array([]), np.array([], dtype=bool)) is None


def test_the_hardest_are_wrong_ones_by_rising_doubt_then_right_ones_by_falling():
    scores = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.45, 0.55], [0.99, 0.01], [0.3, 0.7]])
    labels = np.array([1, 1, 1, 1, 1, 1])
    readable = np.array([True, True, True, True, False, True])
    assert choose(scores, labels, readable, limit=4) == [0, 1, 3, 5]

"""Calibration: whether answers with a score of 80 % are right in 80 % of cases (Guo et al., ICML 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stm.report.intervals import Interval, wilson

NUM_BINS = 15
"""Number of bins of equal width, as in the paper."""

_TRIALS = 1000


@dataclass(frozen=True)
class Bin:
    """The videos whose best score is in one of `NUM_BINS` parts of [0, 1]."""

    confidence: float
    """Mean of their best scores."""
    accuracy: float
    interval: Interval
    num_videos: int


@dataclass(frozen=True)
class Calibration:
    """The calibration of the answers to all readable videos."""

    bins: list[Bin]
    """The bins with videos, in the order of their scores."""
    ece: float
    """Expected calibration error: mean over videos of |accuracy - confidence| of their bin."""
    ece_by_chance: tuple[float, float]
    """Mean and 95th percentile of the error of a perfectly calibrated network on as many videos. It is not 0, because
    the accuracy in a bin with few videos varies by chance."""
    mean_confidence: float
    accuracy: float


def calibrate(confidence_N: np.ndarray, correct_N: np.ndarray, seed: int = 0) -> Calibration | None:
    """Return the calibration of answers, or None if there are none.

    ``confidence_N``: float [N], the score of each answer; ``correct_N``: bool [N].
    """
    if not len(confidence_N):
        return None
    number_N = np.minimum((confidence_N * NUM_BINS).astype(int), NUM_BINS - 1)
    bins = []
    for number in np.unique(number_N):
        inside = number_N == number
        right, total = int(correct_N[inside].sum()), int(inside.sum())
        confidence = float(confidence_N[inside].mean())
        bins.append(Bin(confidence, right / total, wilson(right, total), total))
    generator = np.random.default_rng(seed)
    by_chance = [
        _ece(confidence_N, generator.random(len(confidence_N)) < confidence_N, number_N)
        for _ in range(_TRIALS)
    ]
    return Calibration(
        bins=bins,
        ece=_ece(confidence_N, correct_N, number_N),
        ece_by_chance=(float(np.mean(by_chance)), float(np.quantile(by_chance, 0.95))),
        mean_confidence=float(confidence_N.mean()),
        accuracy=float(correct_N.mean()),
    )


def _ece(confidence_N: np.ndarray, correct_N: np.ndarray, number_N: np.ndarray) -> float:
    gaps = np.bincount(number_N, weights=correct_N - confidence_N, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(confidence_N))

"""The confusions between classes, and an order of the classes that puts confused ones side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_MOST_TO_REFINE = 800  # ordering the leaves takes cubic time: half a second for 400 classes


def seriate(confusion_KK: np.ndarray) -> np.ndarray:
    """Return an order of the classes, int64 [K], that puts confused ones side by side.

    Classes are joined bottom-up (average linkage; the distance of two is 1 minus the mean share that each gives to the
    other), and the leaves of the tree are ordered so that neighbours are as near as possible (optimal leaf ordering,
    Bar-Joseph et al., Bioinformatics 17, 2001). The result is deterministic. Classes without confusions are at the end,
    in their original order.
    """
    shares = confusion_KK / np.maximum(confusion_KK.sum(1, keepdims=True), 1)
    likeness = (shares + shares.T) / 2
    np.fill_diagonal(likeness, 0.0)
    mixed = np.flatnonzero(likeness.sum(1) > 0)
    alone = np.flatnonzero(likeness.sum(1) == 0)
    if len(mixed) < 3:
        return np.concatenate([mixed, alone])
    from scipy.cluster.hierarchy import leaves_list, linkage  # type: ignore[import-untyped]
    from scipy.spatial.distance import squareform  # type: ignore[import-untyped]

    distance = 1.0 - likeness[np.ix_(mixed, mixed)]
    np.fill_diagonal(distance, 0.0)
    refine = len(mixed) <= _MOST_TO_REFINE
    tree = linkage(squareform(distance), method="average", optimal_ordering=refine)
    return np.concatenate([mixed[leaves_list(tree)], alone])


def ordered_confusion(confusion_KK: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the counts and the shares of each row, rows and columns in the order of `seriate`, and that order."""
    order = seriate(confusion_KK)
    counts = confusion_KK[np.ix_(order, order)]
    return counts, counts / np.maximum(counts.sum(1, keepdims=True), 1), order


@dataclass(frozen=True)
class Pair:
    """One off-diagonal cell of the matrix."""

    true: int
    answered: int
    count: int
    share: float
    """Share of the readable videos of the true class."""


def most_confused(confusion_KK: np.ndarray, limit: int) -> list[Pair]:
    """Return the up to ``limit`` cells off the diagonal with most videos; of equal ones, the larger share is first."""
    wrong = confusion_KK.copy()
    np.fill_diagonal(wrong, 0)
    totals = np.maximum(confusion_KK.sum(1), 1)
    pairs = [
        Pair(
            int(row), int(column), int(wrong[row, column]), float(wrong[row, column] / totals[row])
        )
        for row, column in np.argwhere(wrong)
    ]
    return sorted(pairs, key=lambda p: (-p.count, -p.share, p.true, p.answered))[:limit]

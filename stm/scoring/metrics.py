"""Accuracy of scores, counted over every video of a manifest: one that could not be read is a wrong answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Metrics:
    """What is reported of N videos in K classes."""

    num_videos: int
    """N, the readable and the unreadable."""
    unreadable: int
    top1: float
    top5: float
    mean_class_accuracy: float
    """Mean of `per_class` over the classes that occur."""
    per_class: list[float | None]
    """Top-1 of each class; None where it does not occur."""
    class_counts: list[int]
    confusion: np.ndarray
    """int64 [K, K]: videos of class (row) answered as class (column); unreadable videos are in no column."""

    def to_dict(self) -> dict[str, Any]:
        """The numbers without the confusion matrix, JSON-able."""
        return {key: value for key, value in self.__dict__.items() if key != "confusion"}


def measure(scores_NK: np.ndarray, labels_N: np.ndarray, readable_N: np.ndarray) -> Metrics:
    """Metrics of averaged softmax scores.

    ``scores_NK``: float [N, K]; ``labels_N``: int [N]; ``readable_N``: bool [N], False rows count as wrong. Equal
    scores are ranked by class number, so a result does not depend on chance. Top-5 of fewer than five classes is
    top-K.
    """
    num_videos, num_classes = scores_NK.shape
    ranked_NK = np.argsort(-scores_NK, axis=1, kind="stable")
    hits_N1 = (ranked_NK[:, 0] == labels_N) & readable_N
    hits_N5 = (ranked_NK[:, :5] == labels_N[:, None]).any(1) & readable_N
    counts = np.bincount(labels_N, minlength=num_classes)
    correct = np.bincount(labels_N[hits_N1], minlength=num_classes)
    confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(confusion, (labels_N[readable_N], ranked_NK[readable_N, 0]), 1)
    per_class = [float(c / n) if n else None for c, n in zip(correct, counts, strict=True)]
    occurring = [accuracy for accuracy in per_class if accuracy is not None]
    return Metrics(
        num_videos=num_videos,
        unreadable=int((~readable_N).sum()),
        top1=float(hits_N1.mean()),
        top5=float(hits_N5.mean()),
        mean_class_accuracy=float(np.mean(occurring)),
        per_class=per_class,
        class_counts=counts.tolist(),
        confusion=confusion,
    )

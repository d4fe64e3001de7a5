"""The values of the templates of a report's sections (``stm/report/templates``), from `Facts`."""

from __future__ import annotations

from typing import Any

import numpy as np

from stm.checkpoint.format import config_of
from stm.markup import data_block
from stm.plural import counted, have
from stm.report import charts
from stm.report.confusions import most_confused, ordered_confusion
from stm.report.facts import Facts
from stm.report.hardest import NUM_VIDEOS, HardVideo
from stm.report.intervals import wilson
from stm.report.time_use import NAMES

MOST_PAIRS = 15
UNEQUAL = 2
"""Classes are unequal if the largest has more than this many times the videos of the smallest."""
MOST_CELLS = 20_000
"""Number of cells off the diagonal that the heat map can name under the pointer."""


def headline(facts: Facts) -> dict[str, Any]:
    """Return the three main figures with their intervals, and the share of the most frequent class."""
    metrics = facts.metrics
    named = {"top1": "top-1", "top5": "top-5", "mean_class_accuracy": "mean class accuracy"}
    if len(facts.classes) <= 5:
        named["top5"] = f"top-5 (of {counted(len(facts.classes), 'class')})"
    cards = [
        {
            "name": name,
            "value": getattr(metrics, key),
            "interval": facts.intervals[key],
            "bar": charts.interval_bar(getattr(metrics, key), facts.intervals[key]),
        }
        for key, name in named.items()
    ]
    return {
        "cards": cards,
        "right": round(metrics.top1 * metrics.num_videos),
        "most_frequent": max(metrics.class_counts) / metrics.num_videos,
    }


def confusions(facts: Facts) -> dict[str, Any]:
    """Return the sorted matrix, for many classes as a picture with a data block, and the largest confusions."""
    counts, shares, order = ordered_confusion(facts.metrics.confusion)
    classes = [facts.classes[i] for i in order]
    pairs = most_confused(facts.metrics.confusion, MOST_PAIRS)
    if len(classes) <= charts.MOST_DRAWN:
        return {"pairs": pairs, "grid": charts.confusion_grid(shares, counts, classes)}
    alt = f"Confusion matrix of {len(classes)} classes as a heat map; the table below lists the largest confusions"
    return {
        "pairs": pairs,
        "grid": None,
        "picture": charts.confusion_picture(shares, alt),
        "cells": data_block("matrix", {"classes": classes, "cells": _cells(counts)}),
    }


def _cells(counts_KK: np.ndarray) -> dict[int, list[list[int]]]:
    """Return [[column, count], ...] by row, for the diagonal and the largest other cells."""
    cells: dict[int, list[list[int]]] = {}
    for place, count in enumerate(np.diagonal(counts_KK).tolist()):
        if count:
            cells.setdefault(place, []).append([place, count])
    for pair in most_confused(counts_KK, MOST_CELLS):
        cells.setdefault(pair.true, []).append([pair.answered, pair.count])
    return cells


def classes(facts: Facts) -> dict[str, Any]:
    """Return every class with its interval and its most frequent confusion; for many classes, also a curve.

    The worst is first or, if training had unequal classes, the rarest.
    """
    metrics = facts.metrics
    occurring = [i for i, count in enumerate(metrics.class_counts) if count]
    intervals = {i: wilson(facts.correct_per_class[i], metrics.class_counts[i]) for i in occurring}
    accuracy = {i: metrics.per_class[i] or 0.0 for i in occurring}
    trained_on = facts.meta.class_counts or []
    unequal = bool(trained_on) and max(trained_on) > UNEQUAL * min(trained_on)
    order = sorted(occurring, key=lambda i: (accuracy[i], -metrics.class_counts[i], i))
    if unequal:
        order.sort(key=lambda i: trained_on[i])
    rows = [
        {
            "name": facts.classes[i],
            "bar": charts.interval_bar(accuracy[i], intervals[i], metrics.mean_class_accuracy),
            "accuracy": accuracy[i],
            "interval": intervals[i],
            "num_videos": metrics.class_counts[i],
            "trained_on": trained_on[i] if trained_on else None,
            "taken_for": _taken_for(facts, i),
        }
        for i in order
    ]
    lead = "The rarest class in training is first. " if unequal else "The worst class is first. "
    lead += "A dot is the share of right answers for the class, the bar its 95 % interval (Wilson)"
    lead += ", the dashes the mean over classes."
    if unequal:
        lead += (
            f" Training had {min(trained_on):,} to {max(trained_on):,} videos per class. Settings for rare classes: "
            f"{config_of(facts.meta).rare_classes or 'none'}."
        )
    missing = len(facts.classes) - len(occurring)
    if missing:
        lead += (
            f" {missing} of {counted(len(facts.classes), 'class')} {have(missing)} no videos here."
        )
    profile = None
    if len(order) > charts.MOST_DRAWN:
        alt = f"Top-1 of {counted(len(order), 'class')}, sorted, with intervals; the table below lists all of them"
        profile = charts.profile([accuracy[i] for i in order], [intervals[i] for i in order], alt)
    return {"lead": lead, "rows": rows, "profile": profile}


def _taken_for(facts: Facts, label: int) -> str:
    row = facts.metrics.confusion[label].copy()
    row[label] = 0
    if not row.any():
        return ""
    return f"{facts.classes[int(row.argmax())]} ({int(row.max())})"


def hardest(facts: Facts, videos: list[HardVideo]) -> dict[str, Any]:
    """Return the hardest videos, and how they were chosen."""
    readable = facts.scores.readable_N
    wrong = int((facts.scores.scores_NK.argmax(1) != facts.labels_N)[readable].sum())
    lead = f"{counted(wrong, 'readable video', ',')} got a wrong answer. "
    if wrong == 0:
        lead += "These were right with the lowest score."
    elif wrong < NUM_VIDEOS:
        lead += (
            "They are first, by falling score; then those that were right with the lowest score."
        )
    else:
        lead += f"These are the {NUM_VIDEOS} with the highest scores."
    return {"lead": lead, "videos": videos}


def time(facts: Facts) -> dict[str, Any] | None:
    """Return the effect of the order of frames; None if it was not measured."""
    use = facts.time_use
    if use is None:
        return None
    heads = ["reversed, called the other" if o == "reversed" else NAMES[o] for o in use.scores]
    shuffles = "A shuffle is a random order other than that of the video"
    each = " and each of its samplings" if facts.num_views > 1 else ""
    return {
        "chart": charts.orders(use),
        "says": use.says,
        "how": f"{shuffles}, drawn for each video{each}; the repeated frame is the middle one of the clip."
        if len(use.scores) > 1
        else "",
        "found": f"The pairs are {facts.pairs_from}.",
        "heads": ["pair", "videos", *heads],
        "numbers": tuple(range(1, 2 + len(heads))),
        "pairs": [
            {
                "names": [facts.classes[label] for label in pair.labels],
                "total": pair.shares["played"].total,
                "shares": list(pair.shares.values()),
            }
            for pair in use.pairs
        ],
    }

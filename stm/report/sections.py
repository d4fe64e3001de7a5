"""The sections of a report, from `Facts` to markup. What does not exist, such as a wrong answer, is said in words."""

from __future__ import annotations

import numpy as np

from stm.report import charts
from stm.report.confusions import Pair, most_confused
from stm.report.facts import Facts
from stm.report.hardest import NUM_VIDEOS, HardVideo
from stm.report.intervals import wilson
from stm.report.markup import Html, data_block, join, tag
from stm.report.parts import percent, scroll_box, section, table

MOST_PAIRS = 15
MOST_CELLS = 20_000
"""Cells off the diagonal that the heat map can name under the pointer."""


def headline(facts: Facts) -> Html:
    """The three figures with their intervals, what they are of, and what they are worth."""
    metrics = facts.metrics
    named = {"top1": "top-1", "top5": "top-5", "mean_class_accuracy": "mean class accuracy"}
    if len(facts.classes) <= 5:
        named["top5"] = f"top-5 (of {len(facts.classes)} classes)"
    cards = []
    for key, name in named.items():
        value, interval = getattr(metrics, key), facts.intervals[key]
        cards.append(
            tag(
                "div",
                tag("div", name, class_="name"),
                tag("div", f"{100 * value:.1f}", tag("small", " %"), class_="value"),
                charts.interval_bar(value, interval),
                tag("div", f"95 % interval {interval}", class_="name"),
            )
        )
    most = max(metrics.class_counts)
    right = round(metrics.top1 * metrics.num_videos)
    said = (
        f"{right:,} of {metrics.num_videos:,} videos right. "
        + (
            f"{metrics.unreadable:,} could not be read and count as wrong. "
            if metrics.unreadable
            else "All could be read. "
        )
        + f"Always naming the most frequent class would be right for {percent(most / metrics.num_videos)}."
    )
    method = "95 % intervals over videos: Wilson's for top-1 and top-5, normal for the mean over classes."
    return join(
        tag("div", *cards, class_="headline"),
        tag("p", said),
        tag("p", method, class_="muted small"),
        _warning(facts),
    )


def _warning(facts: Facts) -> Html | None:
    if facts.manifest.fingerprint != facts.meta.fingerprint:
        return None
    said = "These are the videos the network was trained on: the figures say nothing about others."
    return tag("p", said, class_="notice")


def confusions(facts: Facts) -> Html:
    """The matrix, ordered, beside the largest confusions."""
    confusion, order = facts.metrics.confusion, facts.order
    counts = confusion[np.ix_(order, order)]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    classes = [facts.classes[i] for i in order]
    pairs = most_confused(confusion, MOST_PAIRS)
    lead = (
        "Rows are true classes, columns answers. Classes that are taken for each other stand side by side. "
        "Strength is the share of the row's readable videos."
    )
    key = tag(
        "p", tag("span", class_="key is-right"), "right", tag("span", class_="key is-wrong"), "wrong",
        class_="small muted",
    )  # fmt: skip
    listed = tag(
        "div", tag("h3", "Most videos confused"), _pair_table(facts, pairs), class_="pairs"
    )
    if len(classes) <= charts.MOST_DRAWN:
        grid = scroll_box(charts.confusion_grid(shares, counts, classes))
        return section(
            "confusions",
            "Confusions",
            lead,
            key,
            tag("div", grid, listed, class_="matrix-and-pairs"),
        )
    alt = f"Confusion matrix of {len(classes)} classes as a heat map; the table below lists the largest confusions"
    told = "Point at the picture to name a cell."
    return section(
        "confusions",
        "Confusions",
        lead,
        key,
        charts.confusion_picture(shares, alt),
        tag("p", told, class_="readout muted", id="readout", aria_live="polite"),
        data_block("matrix", {"classes": classes, "cells": _cells(counts)}),
        listed,
    )


def _cells(counts_KK: np.ndarray) -> dict[int, list[list[int]]]:
    """Row -> [[column, count], ...]: the diagonal, and the largest others."""
    cells: dict[int, list[list[int]]] = {}
    for place, count in enumerate(np.diagonal(counts_KK).tolist()):
        if count:
            cells.setdefault(place, []).append([place, count])
    for pair in most_confused(counts_KK, MOST_CELLS):
        cells.setdefault(pair.true, []).append([pair.answered, pair.count])
    return cells


def _pair_table(facts: Facts, pairs: list[Pair]) -> Html:
    if not pairs:
        return tag("p", "No readable video was given a wrong answer.")
    rows = [
        tag(
            "tr",
            tag("td", facts.classes[pair.true], class_="name-cell"),
            tag("td", facts.classes[pair.answered], class_="name-cell"),
            tag("td", f"{pair.count:,}", class_="number"),
            tag("td", percent(pair.share, 0), class_="number"),
        )
        for pair in pairs
    ]
    return table(["true", "taken for", "videos", "of class"], rows, numbers=(2, 3))


def classes(facts: Facts) -> Html:
    """Every class, worst first, with its interval and what it is taken for."""
    metrics = facts.metrics
    occurring = [i for i, count in enumerate(metrics.class_counts) if count]
    intervals = {i: wilson(facts.correct_per_class[i], metrics.class_counts[i]) for i in occurring}
    accuracy = {i: metrics.per_class[i] or 0.0 for i in occurring}
    order = sorted(occurring, key=lambda i: (accuracy[i], -metrics.class_counts[i], i))
    rows = [
        tag(
            "tr",
            tag("td", facts.classes[i], class_="name-cell"),
            tag(
                "td",
                charts.interval_bar(accuracy[i], intervals[i], metrics.mean_class_accuracy),
                class_="bar-cell",
            ),
            tag("td", percent(accuracy[i], 0), class_="number"),
            tag(
                "td", f"{100 * intervals[i].low:.0f} to {100 * intervals[i].high:.0f}",
                class_="number muted",
            ),
            tag("td", f"{metrics.class_counts[i]:,}", class_="number"),
            tag("td", _taken_for(facts, i)),
        )
        for i in order
    ]  # fmt: skip
    heads = ["class", "", "top-1", "95 %", "videos", "most often taken for"]
    tall = len(order) > charts.MOST_DRAWN
    listed = table(heads, rows, numbers=(2, 3, 4), identity="classes", tall=tall)
    lead = "Worst first. A dot is the share of the class's videos that was right, the bar its 95 % interval (Wilson)"
    lead += ", the dashes the mean over classes."
    missing = len(facts.classes) - len(occurring)
    if missing:
        lead += f" {missing} of {len(facts.classes)} classes have no video here."
    if not tall:
        return section("classes-section", "Classes", lead, listed)
    line = charts.profile(
        [accuracy[i] for i in order],
        [intervals[i] for i in order],
        f"Top-1 of {len(order)} classes, sorted, with intervals; the table below has every one",
    )
    search = tag(
        "input", type="search", id="search", class_="search", placeholder="Search the classes",
        aria_label="Search the classes", autocomplete="off",
    )  # fmt: skip
    found = tag("span", id="found", class_="muted small", aria_live="polite")
    return section("classes-section", "Classes", lead, line, search, found, listed)


def _taken_for(facts: Facts, label: int) -> str:
    row = facts.metrics.confusion[label].copy()
    row[label] = 0
    if not row.any():
        return ""
    return f"{facts.classes[int(row.argmax())]} ({int(row.max())})"


def confidence(facts: Facts) -> Html:
    """Reliability and the calibration error, beside what chance alone would show."""
    calibration = facts.calibration
    if calibration is None:
        return section("confidence", "Confidence", "No video could be read.")
    mean, most = calibration.ece_by_chance
    said = [
        f"The expected calibration error is {percent(calibration.ece)} (15 bins of equal width, "
        f"{facts.num_readable:,} readable videos).",
        f"A perfectly calibrated network would show {percent(mean)} on as many videos, and more than "
        f"{percent(most)} in one of twenty tries.",
    ]
    gap = calibration.mean_confidence - calibration.accuracy
    if calibration.ece <= most:
        said.append("This one cannot be told from such a network.")
    elif gap > 0:
        said.append(f"This one is surer than it may be, by {percent(gap)} on average.")
    else:
        said.append(f"This one is less sure than it might be, by {percent(-gap)} on average.")
    lead = "How often answers of a score are right. On the diagonal, 80 % sure is right 80 times of 100."
    text = tag("div", *(tag("p", sentence) for sentence in said))
    return section(
        "confidence",
        "Confidence",
        lead,
        tag("div", charts.reliability(calibration), text, class_="two"),
    )


def hardest(facts: Facts, videos: list[HardVideo]) -> Html:
    """Frames, answers and the truth of the videos to look at first."""
    readable = facts.scores.readable_N
    wrong = int((facts.scores.scores_NK.argmax(1) != facts.labels_N)[readable].sum())
    lead = f"{wrong:,} readable videos were given a wrong answer. "
    if wrong == 0:
        lead += "These were right with the lowest score."
    elif wrong < NUM_VIDEOS:
        lead += "They come first, the surest at the top; then those that were right with the lowest score."
    else:
        lead += f"These are the {NUM_VIDEOS} that the network was surest of."
    figures = [_video(facts, video) for video in videos]
    return section("hardest", "Hardest videos", lead, tag("div", *figures, class_="videos"))


def _video(facts: Facts, video: HardVideo) -> Html:
    truth = facts.classes[video.true]
    answer = facts.classes[video.answers[0][0]]
    if video.strip is not None:
        alt = f"Five frames of {video.video_id}, from first to last; true class {truth}"
        picture = tag("img", src=charts.data_uri(video.strip, "image/jpeg"), alt=alt)
    else:
        picture = tag("p", f"No picture: {video.problem}", class_="no-picture small muted")
    verdict = f"{truth}, taken for {answer}" if video.is_wrong else f"{truth}, just recognised"
    style = "verdict is-wrong" if video.is_wrong else "verdict"
    answers = [
        tag(
            "li", tag("span", percent(score, 0)), tag("span", facts.classes[label]),
            class_="is-true" if label == video.true else None,
        )
        for label, score in video.answers
    ]  # fmt: skip
    if all(label != video.true for label, _ in video.answers):
        score = tag("span", percent(video.true_score, 0))
        answers.append(tag("li", score, tag("span", truth), class_="is-true"))
    return tag(
        "figure",
        picture,
        tag(
            "figcaption",
            tag("div", verdict, class_=style),
            tag("ul", *answers, class_="answers"),
            tag("div", video.video_id, class_="muted"),
        ),
    )

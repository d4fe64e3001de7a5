"""The use of time by a network: its answers to the same frames as played, reversed, shuffled, and to one repeated.

There are two measures, both over all videos of the manifest; an unreadable video counts as wrong:

top-1         over all classes, in each order; the loss by another order has an interval over the same videos
within pairs  for two classes of which one is the reverse of the other: the class with the higher score. If shuffled
              frames suffice, the classes differ in more than order. A reversed clip should get the other class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from stm.markup import percent
from stm.report.intervals import Interval, paired_difference, wilson
from stm.scoring.metrics import Metrics, measure
from stm.scoring.orders import FrameOrder

NAMES: dict[FrameOrder, str] = {
    "played": "as played", "reversed": "reversed", "shuffled": "shuffled", "still": "one frame repeated"
}  # fmt: skip


@dataclass(frozen=True)
class Share:
    """A share: ``right`` of ``total`` videos."""

    right: int
    total: int

    @property
    def value(self) -> float:
        return self.right / self.total if self.total else 0.0

    @property
    def interval(self) -> Interval:
        return wilson(self.right, self.total)

    def as_dict(self) -> dict[str, Any]:
        return {"share": self.value, "interval": list(self.interval), "num_videos": self.total}


@dataclass(frozen=True)
class Pair:
    """Two classes of which each is the reverse of the other."""

    labels: tuple[int, int]
    shares: dict[FrameOrder, Share]
    """Videos that are told from the other class. For ``reversed``: videos that get the other class, as they should."""


@dataclass(frozen=True)
class TimeUse:
    """One network on one manifest."""

    scores: Mapping[FrameOrder, np.ndarray]
    """Scores of each order, including ``played``: float [N, K]."""
    labels_N: np.ndarray
    readable_N: np.ndarray
    pairs_of_labels: Sequence[tuple[int, int]] = ()

    @cached_property
    def metrics(self) -> dict[FrameOrder, Metrics]:
        return {
            order: measure(scores_NK, self.labels_N, self.readable_N)
            for order, scores_NK in self.scores.items()
        }

    @cached_property
    def top1(self) -> dict[FrameOrder, Share]:
        return {order: Share(int(right.sum()), len(right)) for order, right in self._right.items()}

    @cached_property
    def _right(self) -> dict[FrameOrder, np.ndarray]:
        """bool [N] of each order: whether the best class is the true one."""
        return {
            order: (scores_NK.argmax(1) == self.labels_N) & self.readable_N
            for order, scores_NK in self.scores.items()
        }

    @cached_property
    def lost(self) -> dict[FrameOrder, Interval]:
        """Interval of the loss of top-1 in each other order."""
        played = self._right["played"]
        return {
            order: paired_difference(int((played & ~right).sum()), int((right & ~played).sum()), len(played))
            for order, right in self._right.items()
            if order != "played"
        }  # fmt: skip

    @cached_property
    def pairs(self) -> list[Pair]:
        """The pairs that have videos here; the pair with the smallest share, as played, is first."""
        found = [self._pair(labels) for labels in self.pairs_of_labels]
        found = [pair for pair in found if pair.shares["played"].total]
        return sorted(found, key=lambda pair: (pair.shares["played"].value, pair.labels))

    def _pair(self, labels: tuple[int, int]) -> Pair:
        shares: dict[FrameOrder, Share] = {}
        first, second = sorted(labels)
        of_pair = np.isin(self.labels_N, labels)
        is_first = self.labels_N[of_pair] == first
        for order, scores_NK in self.scores.items():
            # Equal scores are ranked by class number, as in `measure`.
            said_first = scores_NK[of_pair, first] >= scores_NK[of_pair, second]
            told = said_first == (is_first if order != "reversed" else ~is_first)
            right = int((told & self.readable_N[of_pair]).sum())
            shares[order] = Share(right, int(of_pair.sum()))
        return Pair(labels, shares)

    @cached_property
    def in_pairs(self) -> dict[FrameOrder, Share]:
        """Shares over all pairs together; empty if there are no pairs."""
        return {
            order: Share(
                sum(pair.shares[order].right for pair in self.pairs),
                sum(pair.shares[order].total for pair in self.pairs),
            )
            for order in (self.scores if self.pairs else ())
        }

    @cached_property
    def says(self) -> list[str]:
        """Sentences about the figures, which claim only what the intervals support."""
        if not self.readable_N.any():
            return ["No video could be read."]
        said = [self._of_order(), self._of_frames(), self._of_pairs(), self._of_direction()]
        return [sentence for sentence in said if sentence]

    def _figures(self, order: FrameOrder) -> str:
        name = {"still": "with one frame repeated"}.get(order, order)
        return f"As played {_whole(self.top1['played'])}, {name} {_whole(self.top1[order])}"

    def _of_order(self) -> str:
        if "shuffled" not in self.scores:
            return ""
        figures, lost = self._figures("shuffled"), self.lost["shuffled"]
        if lost.low > self.top1["played"].value / 2:
            return (
                f"{figures}: this network needs the order of frames. Without that order, it loses more than half of "
                f"its correct answers ({_points(lost)})."
            )
        if lost.low > 0:
            return f"{figures}: this network uses the order of frames ({_points(lost)})."
        if lost.high < 0:
            return f"{figures}: this network does better without the order of frames ({_points(lost)})."
        most = f"if it does, the order is worth less than {100 * lost.high:.1f} points here"
        return f"{figures}: nothing here shows that this network uses the order of frames; {most} (95 % interval)."

    def _of_frames(self) -> str:
        if "still" not in self.scores:
            return ""
        figures, lost = self._figures("still"), self.lost["still"]
        if lost.low > 0:
            return f"{figures}: it needs more than one frame ({_points(lost)})."
        if lost.high < 0:
            return f"{figures}: it does better with one frame than with all ({_points(lost)})."
        return f"{figures}: nothing here shows that it needs more than one frame."

    def _of_pairs(self) -> str:
        if not self.pairs:
            return ""
        played, shuffled = self.in_pairs["played"], self.in_pairs.get("shuffled")
        figures = (
            "Between two classes that are reversals of each other, it names the right one for "
        )
        figures += f"{_whole(played)} of the videos"
        if shuffled is not None:
            figures += f", with shuffled frames for {_whole(shuffled)}"
        if played.interval.low > 0.5:
            if shuffled is not None and shuffled.interval.high < played.interval.low:
                return f"{figures} (chance: 50 %): it distinguishes them by the order of frames."
            if shuffled is None or shuffled.interval.low <= 0.5:
                return f"{figures} (chance: 50 %): better than chance."
            return f"{figures} (chance: 50 %): better than chance, but nothing here shows that order helps."
        if played.interval.high < 0.5:
            return f"{figures} (chance: 50 %): worse than chance."
        return f"{figures}: no better than chance, which is 50 %."

    def _of_direction(self) -> str:
        share = self.in_pairs.get("reversed")
        if share is None:
            return ""
        figures = f"Played backwards, {_whole(share)} are called the other class of their pair"
        if share.interval.low > 0.5:
            return f"{figures}, as they should: the direction of time decides."
        if share.interval.high < 0.5:
            return f"{figures}: this network does not see these classes as reversals of each other."
        return f"{figures}: no more than chance, which is 50 %."

    def as_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return the results for JSON; docs/reports.md explains the keys."""
        return {
            "orders": {
                order: {
                    "top1": metrics.top1,
                    "top1_interval": list(self.top1[order].interval),
                    "top5": metrics.top5,
                    "mean_class_accuracy": metrics.mean_class_accuracy,
                    "top1_lost_interval": list(self.lost[order]) if order in self.lost else None,
                }
                for order, metrics in self.metrics.items()
            },
            "in_pairs": {order: share.as_dict() for order, share in self.in_pairs.items()},
            "pairs": [
                {
                    "classes": [classes[label] for label in pair.labels],
                    **{order: share.as_dict() for order, share in pair.shares.items()},
                }
                for pair in self.pairs
            ],
            "says": self.says,
        }


def _whole(share: Share) -> str:
    return percent(share.value)


def _points(lost: Interval) -> str:
    low, high = sorted(lost, key=abs)
    return f"{100 * abs(low):.1f} to {100 * abs(high):.1f} points of top-1, 95 % interval"

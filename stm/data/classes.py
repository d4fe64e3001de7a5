"""Match two lists of classes by name: a manifest's and a network's, or those of two score files.

match_classes(["Run", "jump_up"], ["Jump Up", "Run", "Walk"])   # {0: 1, 1: 0}, near {"jump_up": "Jump Up"}
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ClassMatch:
    """How one list of classes maps to another."""

    labels: dict[int, int]
    """Label here -> label there, for the classes that both have."""
    near: dict[str, str]
    """Name here -> name there, for names that differ only in case, blanks, underscores or hyphens."""
    unknown: list[int]
    """Labels here without a class there."""

    def said(self) -> str:
        """Describe the classes whose names differ; "" if there are none."""
        pairs = [f"{ours!r} is {theirs!r}" for ours, theirs in self.near.items()]
        more = f" and {len(pairs) - 5} more" if len(pairs) > 5 else ""
        return ", ".join(pairs[:5]) + more


def match_classes(ours: Sequence[str], theirs: Sequence[str]) -> ClassMatch:
    """Match our classes to theirs by exact name. Names left over match if they differ only in case, blanks,
    underscores or hyphens, and only one of ours and one of theirs does."""
    place = {name: label for label, name in enumerate(theirs)}
    labels = {label: place[name] for label, name in enumerate(ours) if name in place}
    taken = set(labels.values())
    rest_theirs = {label: _folded(name) for label, name in enumerate(theirs) if label not in taken}
    rest_ours = {label: _folded(name) for label, name in enumerate(ours) if label not in labels}
    of_folded = {name: label for label, name in rest_theirs.items()}
    counts = Counter(rest_theirs.values()), Counter(rest_ours.values())
    near = {}
    for label, name in rest_ours.items():
        if all(count[name] == 1 for count in counts):
            labels[label] = of_folded[name]
            near[ours[label]] = theirs[of_folded[name]]
    return ClassMatch(labels, near, [label for label in range(len(ours)) if label not in labels])


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", name).casefold())

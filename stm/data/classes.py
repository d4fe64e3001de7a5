"""Classes matched by their names, where two lists of them meet: a manifest's and a network's, two score files'.

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
    """How one list of classes stands in another."""

    labels: dict[int, int]
    """Label here -> label there, for the classes that both have."""
    near: dict[str, str]
    """Name here -> name there, where they differ in case, blanks, underscores or hyphens alone."""
    unknown: list[int]
    """Labels here without a class there."""

    def said(self) -> str:
        """The classes that are called otherwise, in words; "" where there are none."""
        pairs = [f"{ours!r} is {theirs!r}" for ours, theirs in self.near.items()]
        more = f" and {len(pairs) - 5} more" if len(pairs) > 5 else ""
        return ", ".join(pairs[:5]) + more


def match_classes(ours: Sequence[str], theirs: Sequence[str]) -> ClassMatch:
    """Each of our classes that is also one of theirs: by its exact name; else by a name that differs in case, blanks,
    underscores or hyphens alone, if just one of theirs and one of ours is left that does."""
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

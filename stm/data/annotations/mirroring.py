"""Derive the label of a mirrored clip from the words of the class names."""

from __future__ import annotations

import re
from collections.abc import Sequence

# A mirrored hand turns the other way round, too: Jester's "Turning Hand Clockwise" is such a class.
_OPPOSITE = {
    "left": "right",
    "leftward": "rightward",
    "leftwards": "rightwards",
    "clockwise": "counterclockwise",
}
_OPPOSITE |= {b: a for a, b in _OPPOSITE.items()}


def flip_rules(classes: Sequence[str]) -> tuple[bool, dict[int, int] | None]:
    """(flip, flip_map) of a class list, as `stm.data.manifest.Manifest` holds them.

    If no class names a side, a mirrored clip keeps its label: (True, None). Else (False, map): a
    class without a side maps to itself, and one with a side to the class with swapped sides. If
    there is no such class, it is left out, and its clips must not be mirrored.
    """
    words = [words_of(name) for name in classes]
    by_words = {name: label for label, name in enumerate(words)}
    swapped = [tuple(_OPPOSITE.get(word, word) for word in name) for name in words]
    if swapped == words:
        return True, None
    partners = ((label, by_words.get(name)) for label, name in enumerate(swapped))
    return False, {label: partner for label, partner in partners if partner is not None}


def words_of(name: str) -> tuple[str, ...]:
    """Lower-case words of a class name; underscores, hyphens and CamelCase separate them."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()
    spaced = re.sub(r"\b(?:counter|anti)[\W_]*clockwise\b", "counterclockwise", spaced)
    return tuple(re.findall(r"[^\W_]+", spaced))

"""Derive the label of a mirrored clip from the words of the class names."""

from __future__ import annotations

import re
from collections.abc import Sequence

# A mirrored hand also turns in the other direction, as in Jester's "Turning Hand Clockwise".
_OPPOSITE = {
    "left": "right",
    "leftward": "rightward",
    "leftwards": "rightwards",
    "clockwise": "counterclockwise",
}
_OPPOSITE |= {b: a for a, b in _OPPOSITE.items()}


def flip_rules(classes: Sequence[str]) -> tuple[bool, dict[int, int] | None]:
    """Return (flip, flip_map) of a class list, as in `stm.data.manifest.Manifest`.

    If no class names a side, a mirrored clip keeps its label: (True, None). Otherwise (False, map): a
    class without a side maps to itself, and a class with a side to the class with swapped sides. If
    that does not exist, the map leaves the class out, and its clips must not be mirrored.
    """
    words = [words_of(name) for name in classes]
    by_words = {name: label for label, name in enumerate(words)}
    swapped = [tuple(_OPPOSITE.get(word, word) for word in name) for name in words]
    if swapped == words:
        return True, None
    partners = ((label, by_words.get(name)) for label, name in enumerate(swapped))
    return False, {label: partner for label, partner in partners if partner is not None}


def words_of(name: str) -> tuple[str, ...]:
    """Return the lower-case words of a class name, split at underscores, hyphens and CamelCase."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()
    spaced = re.sub(r"\b(?:counter|anti)[\W_]*clockwise\b", "counterclockwise", spaced)
    return tuple(re.findall(r"[^\W_]+", spaced))

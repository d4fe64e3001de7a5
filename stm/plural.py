"""Numbers of things in messages: "1 video", "2 videos"."""

from __future__ import annotations


def counted(number: float, noun: str) -> str:
    """``number`` and ``noun``, with the plural except for 1: ``counted(1, "class")`` is "1 class", 2 is "2 classes"."""
    return f"1 {noun}" if number == 1 else f"{number} {_plural(noun)}"


def _plural(noun: str) -> str:
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def none_read(number: int, path: object, error: object) -> str:
    """The message of a verb that could not read any of its ``number`` videos; ``path`` is the first of them."""
    if number == 1:
        return f"the video could not be read: {path}: {error}"
    return f"none of the {number} videos could be read; the first: {path}: {error}"

"""Numbers of things in messages: "1 video", "2 videos"."""

from __future__ import annotations


def counted(number: float, noun: str) -> str:
    """``number`` and ``noun``, in the plural but for 1: ``counted(1, "class")`` is "1 class", of 2 "2 classes"."""
    return f"1 {noun}" if number == 1 else f"{number} {_plural(noun)}"


def _plural(noun: str) -> str:
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def none_read(number: int, path: object, error: object) -> str:
    """What a verb says that could read none of its ``number`` videos, of which ``path`` is the first."""
    if number == 1:
        return f"the video could not be read: {path}: {error}"
    return f"none of {number} videos could be read; the first: {path}: {error}"

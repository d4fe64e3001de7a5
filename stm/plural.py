"""Counts of things in messages: "1 video", "2 videos"."""

from __future__ import annotations


def counted(number: float, noun: str, form: str = "") -> str:
    """Return ``number`` and ``noun``, which is plural unless the number is 1: "1 class", "2 classes".

    ``form`` is the format of the number, such as "," or "g".
    """
    return f"1 {noun}" if number == 1 else f"{number:{form}} {_plural(noun)}"


def _plural(noun: str) -> str:
    return f"{noun}es" if noun.endswith(("s", "tch")) else f"{noun}s"


def have(number: float) -> str:
    """Return the verb of that many things: "has" for 1, else "have"."""
    return "has" if number == 1 else "have"


def none_read(number: int, path: object, error: object) -> str:
    """Return the message of a verb that could read none of its ``number`` videos; ``path`` is the first of them."""
    if number == 1:
        return f"the video could not be read: {path}: {error}"
    return f"none of the {number} videos could be read; the first: {path}: {error}"

"""Find pairs of classes that are each other's reversal, from the words of the class names or from a file.

backwards(["Opening something", "Holding something", "Closing something"])      # [(0, 2)]

A name becomes a sequence of words in which each word with a direction ("opening", "out of") is an axis and a sign.
Two classes are a pair if flipping every sign of one gives the other. Reversed, "Pulling something from left to right"
is "Pushing something from right to left". It is not "Pulling something from right to left", because the hand would be
on the other side.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from stm.data.annotations.mirroring import words_of
from stm.data.classes import match_classes
from stm.errors import UserError

_AXES = {
    "side": ("left leftward leftwards", "right rightward rightwards"),
    "height": ("up upward upwards", "down downward downwards"),
    "ahead": ("forward forwards", "backward backwards"),
    "turn": ("clockwise", "counterclockwise"),
    "size": ("grow growing expanding inflating", "shrink shrinking contracting deflating"),
    "open": ("open opening opened", "close closing closed"),
    "seat": ("sit sitting", "stand standing"),
    "push": ("push pushing", "pull pulling"),
    "put": ("put putting insert inserting", "take taking remove removing"),
    "room": ("enter entering", "leave leaving exit exiting"),
    "inside": ("in into", "out out_of"),
    "upon": ("on onto", "off off_of"),
    "zoom": ("zoom_in zooming_in", "zoom_out zooming_out"),
    "switch": ("turn_on turning_on", "turn_off turning_off"),
    "nearness": ("closer_to towards toward", "away_from"),
}
_SIGNED = {
    word: (axis, sign)
    for axis, sides in _AXES.items()
    for sign, words in zip((1, -1), sides, strict=True)
    for word in words.split()
}
_PHRASE = re.compile(
    r"\b(closer to|away from|(out|off) of|zoom(ing)? (in|out)|turn(ing)? (on|off))\b"
)
_SAME = {"approaching": "moving towards", "away": "out"}
"""Synonyms made of words that have an opposite; "away" is the rest of "away from"."""
_SAME_CLASS = {"covering something with something": "covering something"}
_ONE_WAY = re.compile(
    r"(pour|spill|drop|throw|toss|tear|break|pretend|fail|try|thumb)\w*|without|not|t"
)
"""Words for actions that are irreversible, did not happen or do not move; "t" is the end of "doesn't"."""
_NOT_ALONE = {"push", "inside", "upon"}
"""Axes that do not suffice for a pair: push-ups are not reversed pull-ups."""


def backwards(classes: Sequence[str]) -> list[tuple[int, int]]:
    """Return pairs of labels whose class names are each other's reversal. A class is in at most one pair."""
    rows: dict[tuple[object, ...], list[int]] = {}
    known = {word for name in classes for word in words_of(name)}
    undone = {word[2:]: word for word in known if word.startswith("un") and word[2:] in known}
    signed = _SIGNED | {word: (word, 1) for word in undone}
    signed |= {un: (word, -1) for word, un in undone.items()}
    for label, name in enumerate(classes):
        rows.setdefault(_row(name, signed), []).append(label)
    pairs = []
    for row, labels in rows.items():
        axes = {part[0] for part in row if isinstance(part, tuple)}
        partners = rows.get(_turned(row), [])
        tells = bool(axes - _NOT_ALONE) or len(axes) > 1
        if tells and len(labels) == len(partners) == 1 and labels[0] < partners[0]:
            pairs.append((labels[0], partners[0]))
    return sorted(pairs)


def _row(name: str, signed: dict[str, tuple[str, int]]) -> tuple[object, ...]:
    words = list(words_of(name))
    if any(_ONE_WAY.fullmatch(word) for word in words):
        return (name,)
    text = _SAME_CLASS.get(" ".join(words), " ".join(words))
    text = _PHRASE.sub(lambda found: found[0].replace(" ", "_"), text)
    plain = " ".join(_SAME.get(word, word) for word in text.split())
    return tuple(signed.get(word, word) for word in plain.split())


def _turned(row: tuple[object, ...]) -> tuple[object, ...]:
    return tuple((part[0], -part[1]) if isinstance(part, tuple) else part for part in row)


def read_pairs(path: str, classes: Sequence[str]) -> list[tuple[int, int]]:
    """Return the labels of the pairs in a CSV file with two class names per line.

    Raises ``UserError``, with the line, if a line is not a pair of the classes.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"--pairs {path}: cannot be read ({why}). Give a CSV file with two class names per line"
        ) from None
    return check_pairs([row for _, row in lines], classes, [f"{path}, line {i}" for i, _ in lines])


def check_pairs(
    pairs: Sequence[Sequence[str]], classes: Sequence[str], places: Sequence[str]
) -> list[tuple[int, int]]:
    """Return the labels of pairs of names, matched by `match_classes`; ``places`` name the pairs in errors."""
    found: list[tuple[int, int]] = []
    seen: dict[int, str] = {}
    for names, place in zip(pairs, places, strict=True):
        names = [name.strip() for name in names]
        if len(names) != 2:
            raise UserError(
                f"--pairs {place}: a pair has two class names, not {len(names)}; put a name with a comma "
                "in quotes"
            )
        labels = []
        for name in names:
            label = match_classes([name], classes).labels.get(0)
            if label is None:
                raise UserError(f"--pairs {place}: the network has no class {name!r}")
            if label in seen:
                raise UserError(
                    f"--pairs {place}: {name!r} is also in {seen[label]}; a class has only one partner"
                )
            seen[label] = place
            labels.append(label)
        found.append((labels[0], labels[1]))
    return found

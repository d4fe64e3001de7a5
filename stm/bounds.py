"""The allowed values of a setting, as part of its type, and the function that checks them.

    size: Annotated[int, Bounds(ge=32, unit="px")] = 224

``annotated_types`` is not used: jsonargparse passes its types to pydantic, whose messages do not name the option or
say what to do, and the source code in a model package must load without either library.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union

from stm.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """A range of numbers."""

    ge: float = -math.inf
    gt: float = -math.inf
    le: float = math.inf
    lt: float = math.inf
    unit: str = ""

    def broken_by(self, value: float) -> str | None:
        """Return what a finite value must be, such as "must be in [0, 1]", or None if it is within the bounds."""
        if self.ge <= value <= self.le and self.gt < value < self.lt:
            return None
        low, high = max(self.ge, self.gt), min(self.le, self.lt)
        if high < math.inf:
            left, right = "(["[low == self.ge], ")]"[high == self.le]
            said = f"be in {left}{number(low)}, {number(high)}{right}"
        elif low == self.gt:
            said = f"be above {number(low)}"
        elif low == 0:
            said = "not be negative"
        else:
            said = f"be at least {number(low)}" if low > 0 else f"be {number(low)} or more"
        return f"must {said} {self.unit}".rstrip()


@dataclass(frozen=True)
class Rule:
    """Any other condition, with its own message."""

    holds: Callable[[Any], bool]
    words: str

    def broken_by(self, value: Any) -> str | None:
        """Return the rule's message, or None if it holds for the value."""
        return None if self.holds(value) else self.words


def number(value: float) -> str:
    """Return a number with all of its digits, and without a ``.0``: "1000000", "0.1234567"."""
    return str(value).removesuffix(".0")


def check(section: str, settings: Any) -> None:
    """Raise ``UserError`` for the first field that `broken` yields: ``--section.field value: must be ...``."""
    for name, wrong in broken(settings):
        raise UserError(f"--{section}.{name} {getattr(settings, name)}: {wrong}")


def broken(settings: Any) -> Iterator[tuple[str, str]]:
    """Yield (field, what its value must be) for each field of a dataclass that has the wrong type or is out of bounds.

    Numbers must be finite. A bool is not a number, an int is a valid float, and None is valid only if the type
    includes it.
    """
    for name, hint in _hints(settings.__class__).items():
        if wrong := what_is_wrong(getattr(settings, name), hint):
            yield name, wrong


@functools.cache
def _hints(settings: type) -> dict[str, Any]:
    hints = typing.get_type_hints(settings, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(settings)}


def what_is_wrong(value: Any, hint: Any, or_null: str = "") -> str | None:
    """Return what a value must be to match a type with its `Bounds` and `Rule`s, or None if it does.

    ``or_null`` is appended to messages about the type.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return what_is_wrong(value, inner[0]) or (None if value is None else _broken(value, *inner))
    if origin in (Union, UnionType):
        (kind,) = set(inner) - {NoneType}  # the settings have no other unions
        return None if value is None else what_is_wrong(value, kind, " or null")
    if origin is Literal:
        return None if value in inner else f"must be one of {', '.join(map(str, inner))}{or_null}"
    wanted = origin or hint
    if wanted is float and isinstance(value, int):  # an int is a valid float
        wanted = int
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        return f"must be {_a(origin or hint)}{or_null}, not {_a(type(value))}"
    if wanted is float and not math.isfinite(value):
        return f"must be a finite number{or_null}"
    parts = [(value, inner[0])] if wanted is list else []
    if wanted is dict:
        parts = [(value.keys(), inner[0]), (value.values(), inner[1])]
    wrongs = (what_is_wrong(item, kind) for items, kind in parts for item in items)
    return next((f"each {wrong}" for wrong in wrongs if wrong), None)


def _broken(value: Any, hint: Any, *rules: Any) -> str | None:
    for rule in rules:
        if isinstance(rule, Bounds | Rule) and (words := rule.broken_by(value)):
            takes_none = NoneType in typing.get_args(hint) and isinstance(rule, Bounds)
            return f"{words}, or null" if takes_none else words
    return None


def _a(kind: type) -> str:
    return f"{'an' if kind.__name__[0] in 'aeiou' else 'a'} {kind.__name__}"

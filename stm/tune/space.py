"""The search space of a setting, given as an expression in YAML: ``loguniform(1e-4, 1e-1)``.

    uniform(low, high)          any number between low and high
    loguniform(low, high)       as uniform, but on a logarithmic scale
    quniform(low, high, step)   multiples of step; whole numbers if all three are
    randint(low, high)          whole numbers, ``high`` excluded
    choice(a, b, ...)           one of these; words need no quotes
    grid(a, b, ...)             each of these, in all combinations with other settings

Expressions are parsed, never evaluated: a sweep file cannot run code.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import itertools
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stm.errors import UserError

_NUM_ARGUMENTS = {"uniform": 2, "loguniform": 2, "quniform": 3, "randint": 2}
_LISTS = ("choice", "grid")
_WORDS = {"true": True, "false": False, "null": None}


@dataclass(frozen=True)
class Domain:
    """The values of one setting in a sweep."""

    kind: str
    arguments: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(map(str, self.arguments))})"

    @property
    def written(self) -> str:
        """The expression of this domain, with quotes where a word needs them."""
        return f"{self.kind}({', '.join(map(_written, self.arguments))})"

    @property
    def is_list(self) -> bool:
        """Whether all values are listed, as a grid requires."""
        return self.kind in _LISTS

    def examples(self) -> list[Any]:
        """Return the values to check: all values of a list, else both ends."""
        if self.is_list:
            return list(self.arguments)
        low, high = self.arguments[:2]
        return [self.value(low), self.value(high - 1 if self.kind == "randint" else high)]

    def to_tune(self, grid: bool) -> Any:
        """Return the domain for Ray Tune; with ``grid`` all values of a list are tried, instead of one drawn."""
        from ray import tune

        if self.is_list:
            values = [_encode(value) for value in self.arguments]
            return tune.grid_search(values) if grid else tune.choice(values)
        return getattr(tune, self.kind)(*self.arguments)

    def value(self, drawn: Any) -> Any:
        """Convert a value drawn by Ray Tune to the plain value of the setting."""
        if hasattr(drawn, "item"):  # a numpy scalar
            drawn = drawn.item()
        if self.is_list:
            return _decode(drawn, self.arguments)
        if self.kind == "randint" or (
            self.kind == "quniform" and all(isinstance(a, int) for a in self.arguments)
        ):
            return round(drawn)
        return float(drawn)


def parse_domain(expression: object) -> Domain:
    """Parse an expression into a domain. Raises ``UserError`` that names the mistake."""
    if not isinstance(expression, str):
        raise UserError(f"{expression!r} is a value, not a space")
    try:
        call = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UserError(f"{expression!r} cannot be read: {_how()}") from None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.keywords:
        raise UserError(f"{expression!r} is no space: {_how()}")
    kind = call.func.id
    if kind not in (*_NUM_ARGUMENTS, *_LISTS):
        raise UserError(f"{expression!r}: there is no {kind}(...): {_how()}")
    arguments = tuple(_literal(argument, expression) for argument in call.args)
    _check(kind, arguments, expression)
    return Domain(kind, arguments)


def proposals(given: object, current: object) -> Iterator[Domain]:
    """Yield corrections of an invalid domain, likeliest first; the last one is the current value of the setting.

    Not all of them are valid for the setting: use the first that is. Each can be written in a sweep file: infinity,
    for example, cannot.
    """
    for domain in _corrections(given, current):
        with contextlib.suppress(UserError):
            if parse_domain(domain.written) == domain:
                yield domain


def _corrections(given: object, current: object) -> Iterator[Domain]:
    kind, values = _guess(given)
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    numbers = [number for number in numbers if abs(number) < 1e300]
    if kind in _NUM_ARGUMENTS and len(numbers) > 1:
        low, high = min(numbers), max(numbers)
        if kind == "quniform":
            yield Domain(kind, (*sorted(numbers[:2]), *numbers[2:3]))
        else:
            yield Domain(kind, (low, high))
        yield Domain("uniform", (low, high))
        yield Domain("loguniform", (high / 1000, high))
        yield Domain("randint", (math.ceil(low), math.floor(high) + 1))
    unique = {_written(value): value for value in values}
    yield Domain("grid" if kind == "grid" else "choice", tuple(unique.values()))
    yield Domain("choice", (given,))
    yield Domain("choice", (current,))


_LOWS, _HIGHS = ("min", "low", "lower", "from", "start"), ("max", "high", "upper", "to", "end")
_STEPS, _VALUES = ("step", "q"), ("values", "choices", "options", "grid", "list")


def _guess(given: object) -> tuple[str, list[Any]]:
    """Guess the intended kind and values of an invalid domain."""
    if isinstance(given, dict):
        words = {str(key).lower(): value for key, value in given.items()}
        for key in _VALUES:
            if isinstance(words.get(key), list):
                return ("grid" if key == "grid" else "choice"), words[key]
        numbers = [_value(words[key]) for key in (*_LOWS, *_HIGHS) if key in words]
        steps = [_value(words[key]) for key in _STEPS if key in words]
        if steps:
            return "quniform", [*numbers, *steps]
        return ("loguniform" if "log" in str(given) else "uniform"), numbers
    if isinstance(given, list):
        return "choice", [_value(value) for value in given]
    if not isinstance(given, str):
        return "choice", [] if given is None else [given]
    called = re.fullmatch(r"\s*(\w+)\s*\((.*)\)\s*", given, re.DOTALL)
    if called is None:
        return "choice", [_value(part) for part in _parts(given)]
    known = difflib.get_close_matches(called[1], [*_NUM_ARGUMENTS, *_LISTS], n=1, cutoff=0.5)
    named = [re.sub(r"^\s*[a-z_]\w*\s*=", "", part) for part in _parts(called[2])]
    return (known or ["choice"])[0], [_value(part) for part in named]


def _parts(text: str) -> list[str]:
    """Split text at its commas, except those inside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _value(given: Any) -> Any:
    """Convert text to a number, a word or a list; return the text itself if that fails."""
    if not isinstance(given, str):
        return given
    try:
        return _literal(ast.parse(given.strip(), mode="eval").body, given)
    except (UserError, SyntaxError, ValueError, RecursionError, MemoryError):
        return given.strip().strip("'\"")


def _written(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, str) and value.isidentifier() and value not in _WORDS:
        return value
    return repr(value)


def combinations(space: dict[str, Domain]) -> list[dict[str, Any]]:
    """Return all combinations of a space of lists."""
    names = list(space)
    return [
        dict(zip(names, values, strict=True))
        for values in itertools.product(*(space[name].arguments for name in names))
    ]


def _check(kind: str, arguments: tuple[Any, ...], expression: str) -> None:
    if kind in _LISTS:
        if not arguments:
            raise UserError(f"{expression!r} is empty: name at least one value")
        seen = [json.dumps(argument) for argument in arguments]
        if len(set(seen)) < len(seen):
            raise UserError(f"{expression!r} names a value twice")
        return
    if len(arguments) != _NUM_ARGUMENTS[kind]:
        raise UserError(f"{expression!r}: {kind} takes {_NUM_ARGUMENTS[kind]} numbers")
    for argument in arguments:
        if isinstance(argument, bool) or not isinstance(argument, int | float):
            raise UserError(f"{expression!r}: {argument!r} is no number")
        if not math.isfinite(argument):
            raise UserError(f"{expression!r}: {argument!r} is not finite")
        if kind == "randint" and not isinstance(argument, int):
            raise UserError(f"{expression!r}: randint takes whole numbers")
    low, high = arguments[:2]
    if low >= high:
        raise UserError(f"{expression!r} is empty: {low} is not below {high}")
    if kind == "loguniform" and low <= 0:
        raise UserError(f"{expression!r}: a logarithmic range begins above 0")
    if kind == "quniform" and not 0 < arguments[2] <= high - low:
        raise UserError(f"{expression!r}: the step must be above 0, and no wider than the range")


def _literal(node: ast.expr, expression: str) -> Any:
    if isinstance(node, ast.Name):  # a bare word: stm, true, null
        return _WORDS.get(node.id, node.id)
    try:
        value = ast.literal_eval(node)
        json.dumps(value)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise UserError(
            f"{expression!r}: {ast.unparse(node)!r} is neither a number, a word nor a list"
        ) from None
    return list(value) if isinstance(value, tuple) else value


def _how() -> str:
    return (
        "use uniform(low, high), loguniform(low, high), quniform(low, high, step), randint(low, high), "
        "choice(a, b, ...) or grid(a, b, ...)"
    )


def _encode(value: Any) -> Any:
    """Encode a list as text, because searchers accept only plain values."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def _decode(drawn: Any, values: tuple[Any, ...]) -> Any:
    for value in values:
        if type(_encode(value)) is type(drawn) and _encode(value) == drawn:
            return value
    return drawn

"""Reads YAML so that errors can name file, line and field."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from stm.errors import UserError


@dataclass(frozen=True)
class Where:
    """Makes errors that name file, line and field."""

    file: str
    lines: dict[tuple[str, ...], int]

    def error(self, field_path: tuple[str, ...], message: str) -> UserError:
        line = self.lines.get(field_path) or self.lines.get(field_path[:1])
        place = f"{self.file}:{line}" if line else self.file
        return UserError(f"{place}: {'.'.join(field_path)}: {message}")


def load(
    text: str, where: str, kind: str = "a sweep is a mapping: name, base, space, ..."
) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """Return a mapping, and the line of each key by its path. Raises ``UserError`` that names file and line."""
    import yaml

    lines: dict[tuple[str, ...], int] = {}

    def visit(node: Any, path: tuple[str, ...]) -> None:
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            inner = (*path, str(key.value))
            line = key.start_mark.line + 1
            if inner in lines:
                raise UserError(f"{where}:{line}: {'.'.join(inner)}: is given twice")
            lines[inner] = line
            visit(value, inner)

    try:
        visit(yaml.compose(text, Loader=yaml.SafeLoader), ())
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}:{mark.line + 1}" if mark else where
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UserError(f"{place}: no YAML: {problem}") from None
    if not isinstance(values, dict):
        raise UserError(f"{where}: {kind}")
    return values, lines


def near(word: str, known: list[str]) -> str:
    """Return ", did you mean ...?" if one of ``known`` is similar to ``word``, else an empty string."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f", did you mean {found[0]}?" if found else ""

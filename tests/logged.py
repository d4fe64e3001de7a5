"""What the library logs while a body runs: ``with logged() as lines: ...``."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from stm.log import shown_by


class _Keep(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())


@contextlib.contextmanager
def logged() -> Iterator[list[str]]:
    lines: list[str] = []
    with shown_by(_Keep(lines), logging.INFO):
        yield lines

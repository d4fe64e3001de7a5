"""The library's log: ``logging.getLogger("stm")``, and a logger of each module below it.

    import logging
    logging.basicConfig(level=logging.INFO)  # in a program of your own: every line of progress

Nothing is printed before a program asks for it. Before a handler sees a line, secrets in URLs are hidden
and control characters escaped (``stm.redaction``). The command
line shows the log through ``stm.progress_view``; workers of Ray send theirs to the driver (``stm.train.progress``).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from stm.redaction import harmless, redact

ROOT = logging.getLogger("stm")


def get_logger(name: str) -> logging.Logger:
    """The logger ``name``, which is "stm" or below it, with secrets in URLs hidden and control characters escaped."""
    logger = logging.getLogger(name)
    logger.addFilter(_hide_secrets)
    return logger


@contextlib.contextmanager
def shown_by(handler: logging.Handler, level: int) -> Iterator[None]:
    """While the body runs, ``handler`` alone has the library's lines, from ``level`` upwards."""
    before = ROOT.handlers, ROOT.level, ROOT.propagate
    ROOT.handlers, ROOT.propagate = [handler], False
    ROOT.setLevel(level)
    try:
        yield
    finally:
        ROOT.handlers, _, ROOT.propagate = before
        ROOT.setLevel(before[1])


def flush() -> None:
    """Return when the lines so far have arrived where they go: for a process that is about to end."""
    for handler in ROOT.handlers:
        handler.flush()


def _hide_secrets(record: logging.LogRecord) -> bool:
    record.msg, record.args = harmless(redact(record.getMessage())), None
    return True

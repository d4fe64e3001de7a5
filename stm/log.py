"""The library's log: ``logging.getLogger("stm")``, with a logger for each module below it.

    import logging
    logging.basicConfig(level=logging.INFO)  # in your own program: shows all progress

Nothing is printed unless a program adds a handler. Before a handler gets a line, secrets in URLs are hidden and control
characters are escaped (``stm.redaction``). The command line shows the log through ``stm.progress_view``, and Ray's
workers send theirs to the driver (``stm.train.progress``).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from stm.redaction import harmless, redact

ROOT = logging.getLogger("stm")


def get_logger(name: str) -> logging.Logger:
    """Return the logger ``name``, "stm" or one below it, which hides secrets in URLs and escapes control characters."""
    logger = logging.getLogger(name)
    logger.addFilter(_hide_secrets)
    return logger


@contextlib.contextmanager
def shown_by(handler: logging.Handler, level: int) -> Iterator[None]:
    """While the body runs, send the library's lines of at least ``level`` only to ``handler``."""
    before = ROOT.handlers, ROOT.level, ROOT.propagate
    ROOT.handlers, ROOT.propagate = [handler], False
    ROOT.setLevel(level)
    try:
        yield
    finally:
        ROOT.handlers, _, ROOT.propagate = before
        ROOT.setLevel(before[1])


def flush() -> None:
    """Flush the handlers, for a process that is about to end."""
    for handler in ROOT.handlers:
        handler.flush()


def _hide_secrets(record: logging.LogRecord) -> bool:
    record.msg, record.args = harmless(redact(record.getMessage())), None
    return True

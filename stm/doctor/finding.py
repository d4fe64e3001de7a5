"""The result of a check: a status, a sentence, and what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Status = Literal["ok", "warning", "fails"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    check: str
    status: Status
    said: str
    todo: str = ""
    """How to correct it; "" if there is nothing to correct."""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def ok(check: str, said: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding(check, "ok", said)


def warning(check: str, said: str, todo: str) -> Finding:
    """Return a finding with which training works, but slower or less safely."""
    return Finding(check, "warning", said, todo)


def fails(check: str, said: str, todo: str) -> Finding:
    """Return a finding with which training would fail, or be inexact."""
    return Finding(check, "fails", said, todo)


def first_line(error: BaseException) -> str:
    """Return the first line of an error; a long line is cut in the middle, because the cause is often at its end."""
    cause: BaseException = getattr(error, "cause", None) or error  # Ray wraps a task's error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    line = lines[0] if lines else "no message"
    if len(line) > 300:
        line = f"{line[:120]} ... {line[-170:]}"
    return f"{type(cause).__name__}: {line}"

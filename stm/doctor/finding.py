"""What a check found: a status, one sentence, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Status = Literal["ok", "warning", "fails"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's answer."""

    check: str
    status: Status
    said: str
    todo: str = ""
    """What mends it; empty where there is nothing to mend."""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def ok(check: str, said: str) -> Finding:
    """Nothing to do."""
    return Finding(check, "ok", said)


def warning(check: str, said: str, todo: str) -> Finding:
    """Training works, slower or less safely than it could."""
    return Finding(check, "warning", said, todo)


def fails(check: str, said: str, todo: str) -> Finding:
    """Training would not work, or not be exact."""
    return Finding(check, "fails", said, todo)


def first_line(error: BaseException) -> str:
    """An error in one line: its first, of which a long one keeps both ends, as the cause is told last."""
    cause: BaseException = getattr(error, "cause", None) or error  # Ray wraps what a task raised
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    line = lines[0] if lines else "no message"
    if len(line) > 300:
        line = f"{line[:120]} ... {line[-170:]}"
    return f"{type(cause).__name__}: {line}"

"""Growing files with one JSON object per line: the record of a run, the reports of a sweep.

A full disk or a killed process can leave an incomplete line. It is skipped, and the next record begins a new line.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

NAME = "tracking.jsonl"
"""Name of a run's record, in the driver's folder of the run (see ``stm.tracking``)."""


def append(path: Path, record: dict[str, Any]) -> None:
    """Append a record and close the file, since the process may be killed at any moment. Raises ``OSError``."""
    with path.open("ab+") as file:
        if file.tell() and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
            file.write(b"\n")
        file.write(json.dumps(record).encode() + b"\n")


def parse(line: bytes) -> dict[str, Any] | None:
    """Return the record in a line, or None if the line is incomplete."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def read(path: Path) -> list[dict[str, Any]]:
    """Return all records in order; an empty list if the file cannot be read."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return []
    return [record for record in map(parse, lines) if record is not None]


def metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a run's metrics: ``step``, ``time_ms`` and ``values``, a dict of numbers by name."""
    return [record for record in read(path) if record.get("kind") == "metrics"]


def series(path: Path, name: str) -> dict[int, float]:
    """Return one metric of a run by step; a step that was repeated after a restart has its last value."""
    return {r["step"]: r["values"][name] for r in metrics(path) if name in r["values"]}

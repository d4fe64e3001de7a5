"""Files of one JSON object a line that grow while something runs: a run's record, the reports of a sweep.

A full disk or a killed process cuts a line short. Such a line is passed over, and the next one begins anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

NAME = "tracking.jsonl"
"""A run's record, in the driver's folder of the run (see ``stm.tracking``)."""


def append(path: Path, record: dict[str, Any]) -> None:
    """Add a record; at once on disk, since the process may be killed at any moment. Raises ``OSError``."""
    with path.open("ab+") as file:
        if file.tell() and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
            file.write(b"\n")
        file.write(json.dumps(record).encode() + b"\n")


def parse(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None where it was cut short."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def read(path: Path) -> list[dict[str, Any]]:
    """All records, in order; none where there is no file that can be read."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return []
    return [record for record in map(parse, lines) if record is not None]


def metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a run's numbers: ``step``, ``time_ms`` and ``values``, numbers by name."""
    return [record for record in read(path) if record.get("kind") == "metrics"]


def series(path: Path, name: str) -> dict[int, float]:
    """One metric of a run by step; a step that was repeated after a restart counts once, as it was the last time."""
    return {r["step"]: r["values"][name] for r in metrics(path) if name in r["values"]}

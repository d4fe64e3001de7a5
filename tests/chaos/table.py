"""The table of docs/reliability.md, written by the scenarios themselves.

Each scenario that passes notes a row in results.jsonl beside this file, in place of its last one; at the end of
`make chaos` all rows are written into the document, between two marks.
"""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path

RESULTS = Path(__file__).with_name("results.jsonl")
DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"
MARKS = ("<!-- written by `make chaos` -->", "<!-- end of the table that `make chaos` writes -->")
COLUMNS = ("fault", "what was done", "times", "result", "test", "date and machine")


def note(test: str, fault: str, done: str, times: int, outcome: str) -> None:
    """Keep a scenario's row; ``test`` is its name, with its parameters."""
    row = {
        "test": test,
        "fault": fault,
        "done": done,
        "times": times,
        "outcome": outcome,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "date": time.strftime("%Y-%m-%d"),
    }
    rows = {known["test"]: known for known in _rows()} | {test: row}
    RESULTS.write_text(
        "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows.values())
    )


def render() -> str:
    """The rows as a table in Markdown."""
    lines = [COLUMNS, ("---",) * len(COLUMNS)]
    for row in _rows():
        test = f"`{row['test'].partition('[')[0]}`"
        seen = f"{row['date']}, {row['machine']}"
        lines.append((row["fault"], row["done"], str(row["times"]), row["outcome"], test, seen))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write() -> None:
    """Put the rows into the document."""
    text = DOCUMENT.read_text()
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    DOCUMENT.write_text(f"{before}{MARKS[0]}\n\n{render()}\n\n{MARKS[1]}{after}")


def _rows() -> list[dict[str, str]]:
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]

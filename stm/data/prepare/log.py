"""What earlier, perhaps interrupted, preparing finished, so that nothing is made twice.

A folder of JSON lines. Whoever finishes a video writes its line at once, each task to a file of its
own, so a job that is killed loses at most the videos it was at. A line cut short is passed over.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

NO_GAIN = "no_gain"
"""Reason of a video that is as good as it is."""

# A chmod, a mount, more memory, a new version can mend these without a change of size or time.
_NOT_REMEMBERED = frozenset({"not_found", "permission_denied", "crashed", "failed"})


@dataclass(frozen=True, kw_only=True)
class Record:
    """What came of one video: a result, or the reason why there is none."""

    key: str
    """Stands for the source, its state and the settings: another key is another result."""

    source: str
    """Path below the manifest's root."""

    result: str = ""
    """Path below the output folder, perhaps of a row of a shard; "" where it failed."""

    reason: str = ""
    detail: str = ""
    """Why it failed, or was left alone (`NO_GAIN`): code and words."""

    deadline_s: float = 0.0
    width: int = 0
    height: int = 0
    codec: str = ""
    keyframe_interval: int = 0
    guard: str = ""
    bytes_before: int = 0
    bytes_after: int = 0
    written: float = field(default_factory=time.time)
    """Seconds since 1970: of two records of a key, the later counts."""

    def is_final(self, deadline_s: float) -> bool:
        """Whether to go by this record, as long as its result is there, and not try again."""
        if self.result:
            return True
        gave_up_early = self.reason == "deadline" and self.deadline_s < deadline_s
        return self.reason not in _NOT_REMEMBERED and not gave_up_early

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Raises ValueError or TypeError where the line is none of ours."""
        return cls(**json.loads(line))


class PrepareLog:
    """Records in a folder; `add` makes a file of its own for each instance."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = f"{uuid.uuid4().hex}.jsonl"

    def add(self, record: Record) -> None:
        """Write a record, whole and at once."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(self._folder / self._name, "a") as file:
            file.write(record.to_json() + "\n")

    def load(self) -> dict[str, Record]:
        """The latest record of each key."""
        records: dict[str, Record] = {}
        for path in sorted(self._folder.glob("*.jsonl")):
            for line in path.read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError, TypeError):
                    record = Record.from_json(line)
                    earlier = records.get(record.key)
                    if earlier is None or earlier.written <= record.written:
                        records[record.key] = record
        return records

    def compact(self, records: Iterable[Record]) -> None:
        """Replace all files by one that holds `records`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        old = list(self._folder.glob("*.jsonl"))
        temporary = self._folder / f".{self._name}.tmp"
        temporary.write_text("".join(record.to_json() + "\n" for record in records))
        os.replace(temporary, self._folder / f"all-{self._name}")
        for path in old:
            path.unlink(missing_ok=True)

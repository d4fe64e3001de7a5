"""Log of the results of earlier, perhaps interrupted, preparing, so that nothing is made twice.

The log is a folder of JSON lines. Each task has its own file and writes a line as soon as a video is
done, so a killed job loses at most the videos in progress. Truncated lines are skipped.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from stm.storage import write_bytes

NO_GAIN = "no_gain"
"""Reason of a video that would not gain enough from preparing."""

# A chmod, a mount, more memory or a new version can fix these without a change of size or time.
_NOT_REMEMBERED = frozenset({"not_found", "permission_denied", "crashed", "failed"})


@dataclass(frozen=True, kw_only=True)
class Record:
    """The outcome for one video: a result, or the reason for its failure."""

    key: str
    """Hash of the source, its state and the settings: a different key is a different result."""

    source: str
    """Path below the manifest's root."""

    result: str = ""
    """Path below the output folder, perhaps of a row of a shard; "" if the video failed."""

    reason: str = ""
    detail: str = ""
    """Code and text of why the video failed or was left alone (`NO_GAIN`)."""

    deadline_s: float = 0.0
    width: int = 0
    height: int = 0
    codec: str = ""
    keyframe_interval: int = 0
    guard: str = ""
    bytes_before: int = 0
    bytes_after: int = 0
    written: float = field(default_factory=time.time)
    """Seconds since 1970; the latest record of a key counts."""

    def is_final(self, deadline_s: float) -> bool:
        """Whether to use this record instead of a new try, as long as its result exists."""
        if self.result:
            return True
        gave_up_early = self.reason == "deadline" and self.deadline_s < deadline_s
        return self.reason not in _NOT_REMEMBERED and not gave_up_early

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Parse a line; raises ValueError or TypeError if it is not a record."""
        return cls(**json.loads(line))


class PrepareLog:
    """Records in a folder; each instance that uses `add` creates its own file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = f"{uuid.uuid4().hex}.jsonl"

    def add(self, record: Record) -> None:
        """Write a whole record immediately."""
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
        text = "".join(record.to_json() + "\n" for record in records)
        write_bytes(str(self._folder / f"all-{self._name}"), text.encode())
        for path in old:
            path.unlink(missing_ok=True)

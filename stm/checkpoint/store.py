"""Where a run keeps its checkpoints: a folder on a disk that all nodes share, or a URL that fsspec reads.

    RUN/checkpoint-00000120/    step 120: meta.json, model.safetensors, state.pt, history.json

A checkpoint is there whole or not at all. On a disk it is written under another name, flushed and renamed; in an object
store ``meta.json`` is written last, and what lacks it does not count. So the newest one that counts is the truth, and
a crash, a full disk or a machine that disappears at any moment leaves the one before it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

from stm.checkpoint.format import META, VALIDATION, Meta, read_meta
from stm.storage import glob, join, remove_folder, remove_partial, write_bytes, write_folder

_MOST_WAITING = 3


class CheckpointStore:
    """The checkpoints of one run directory (a local path or a URL). Cheap to make and to pickle."""

    def __init__(self, run_directory: str) -> None:
        self.run_directory = run_directory.rstrip("/")

    def commit(self, step: int, write: Callable[[Path], None]) -> str:
        """Keep what ``write(folder)`` writes as the checkpoint of ``step``; returns its path.

        Raises ``OSError`` (a full disk, a store that is away); what was there before is still there then.
        """
        path = join(self.run_directory, f"checkpoint-{step:08d}")
        write_folder(path, write, last=META)
        return path

    def checkpoints(self) -> list[tuple[str, Meta]]:
        """Every whole checkpoint with its meta, in the order of steps."""
        return [(path, read_meta(path)) for path in self._paths()]

    def latest(self) -> tuple[str, Meta] | None:
        """The newest whole checkpoint, or None before the first."""
        paths = self._paths()
        return (paths[-1], read_meta(paths[-1])) if paths else None

    def prune(self) -> None:
        """Remove all but the newest checkpoint, the best by validation, the newest few that wait for theirs, and what
        crashes left half-written.

        What cannot be removed stays: that is no reason to stop a run.
        """
        found = self.checkpoints()
        if found:
            waiting = [path for path, meta in found if meta.awaits_validation][-_MOST_WAITING:]
            keep = {found[-1][0], best(found)[0], *waiting}
            for path in (path for path, _ in found if path not in keep):
                with contextlib.suppress(OSError):
                    self.remove(path)
        remove_partial(self.run_directory)

    def remove(self, path: str) -> None:
        """Remove a checkpoint; from the first moment on it does not count. Raises ``OSError``."""
        remove_folder(path, first=META)

    def add_validation(self, path: str, metrics: dict[str, float]) -> None:
        """Add to a checkpoint what its validation found; nothing, where the validation is given up."""
        write_bytes(join(path, VALIDATION), json.dumps(metrics).encode())

    def _paths(self) -> list[str]:
        metas = glob(self.run_directory, f"checkpoint-*/{META}")
        return [meta.removesuffix(f"/{META}") for meta in metas]


def best(found: list[tuple[str, Meta]]) -> tuple[str, Meta]:
    """The checkpoint with the highest validation top-1, the newer of two equal ones; unvalidated ones come last."""
    return max(found, key=lambda pair: (pair[1].metrics.get("val_top1", -1.0), pair[1].position))

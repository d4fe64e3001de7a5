"""Where a run keeps its checkpoints: a folder on a disk that all nodes share, or a URL that fsspec reads.

    RUN/checkpoint-00000120/    step 120: meta.json, model.safetensors, state.pt, history.json

A checkpoint is there whole or not at all. On a disk it is written under another name, flushed and renamed; in an object
store ``meta.json`` is written last, and what lacks it does not count. So the newest one that counts is the truth, and
a crash, a full disk or a machine that disappears at any moment leaves the one before it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stm.checkpoint.format import META, VALIDATION, Meta, read_meta

_PARTIAL = ".partial-"
_MOST_WAITING = 3


class CheckpointStore:
    """The checkpoints of one run directory (a local path or a URL). Cheap to make and to pickle."""

    def __init__(self, run_directory: str) -> None:
        self.run_directory = run_directory.rstrip("/")

    def commit(self, step: int, write: Callable[[Path], None]) -> str:
        """Keep what ``write(folder)`` writes as the checkpoint of ``step``; returns its path.

        Raises ``OSError`` (a full disk, a store that is away); what was there before is still there then.
        """
        path = f"{self.run_directory}/checkpoint-{step:08d}"
        if self._remote:
            with tempfile.TemporaryDirectory(prefix="stm-checkpoint-") as folder:
                write(Path(folder))
                self._upload(Path(folder), path)
            return path
        Path(self.run_directory).mkdir(parents=True, exist_ok=True)
        partial = Path(self.run_directory) / f"{_PARTIAL}{step:08d}-{uuid.uuid4().hex[:8]}"
        try:
            partial.mkdir()
            write(partial)
            for file in partial.iterdir():
                _flush(file)
            _flush(partial)
            shutil.rmtree(path, ignore_errors=True)
            os.replace(partial, path)
            _flush(Path(self.run_directory))
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
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
                    self._remove(path)
        if not self._remote:
            for partial in Path(self.run_directory).glob(f"{_PARTIAL}*"):
                shutil.rmtree(partial, ignore_errors=True)

    def add_validation(self, path: str, metrics: dict[str, float]) -> None:
        """Add to a checkpoint what its validation found; nothing, where the validation is given up."""
        text = json.dumps(metrics)
        if self._remote:
            filesystem, root = self._filesystem()
            filesystem.pipe_file(f"{root}/{path.rsplit('/', 1)[1]}/{VALIDATION}", text.encode())
            return
        partial = Path(path) / f"{_PARTIAL}{VALIDATION}"
        partial.write_text(text)
        os.replace(partial, Path(path) / VALIDATION)

    # ------------------------------------------------------------------ disks and object stores

    @property
    def _remote(self) -> bool:
        return "://" in self.run_directory

    def _filesystem(self) -> tuple[Any, str]:
        import fsspec

        filesystem, root = fsspec.core.url_to_fs(self.run_directory)
        filesystem.invalidate_cache()  # another process writes here too
        return filesystem, root

    def _paths(self) -> list[str]:
        if not self._remote:
            metas = sorted(Path(self.run_directory).glob(f"checkpoint-*/{META}"))
            return [str(meta.parent) for meta in metas]
        filesystem, root = self._filesystem()
        names = sorted(found.split("/")[-2] for found in filesystem.glob(f"{root}/*/{META}"))
        return [f"{self.run_directory}/{name}" for name in names if name.startswith("checkpoint-")]

    def _upload(self, folder: Path, path: str) -> None:
        filesystem, root = self._filesystem()
        target = f"{root}/{path.rsplit('/', 1)[1]}"
        with contextlib.suppress(FileNotFoundError):
            filesystem.rm(f"{target}/{META}")
        for file in sorted(folder.iterdir(), key=lambda file: file.name == META):
            filesystem.put_file(str(file), f"{target}/{file.name}")

    def _remove(self, path: str) -> None:
        if not self._remote:
            (Path(path) / META).unlink()  # from here on it does not count
            shutil.rmtree(path)
            return
        filesystem, root = self._filesystem()
        target = f"{root}/{path.rsplit('/', 1)[1]}"
        filesystem.rm(f"{target}/{META}")
        filesystem.rm(target, recursive=True)


def best(found: list[tuple[str, Meta]]) -> tuple[str, Meta]:
    """The checkpoint with the highest validation top-1, the newer of two equal ones; unvalidated ones come last."""
    return max(found, key=lambda pair: (pair[1].metrics.get("val_top1", -1.0), pair[1].position))


def _flush(path: Path) -> None:
    """Have the disk, not only the cache, hold a file or a folder's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

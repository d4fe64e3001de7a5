"""Where a run keeps its checkpoints: a folder on a disk that all nodes share, or a URL that fsspec reads.

    RUN/checkpoint-00000120/    step 120: meta.json, model.safetensors, state.pt, history.json

A checkpoint is there whole or not at all. On a disk it is written under another name, flushed and renamed; in an object
store ``meta.json`` is written last, and what lacks it does not count. So the newest one that counts is the truth, and
a crash, a full disk or a machine that disappears at any moment leaves the one before it.

A disk may still lose or change what it was given. So who goes on from a checkpoint reads all of it first
(`CheckpointStore.take_whole`); a damaged one is set aside and the one before it is taken. That is why the one before
the last is always kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from stm.checkpoint import lease
from stm.checkpoint.format import (
    META,
    MODEL,
    VALIDATION,
    Damaged,
    Meta,
    check_whole,
    read_file,
    read_meta,
    sealed,
)
from stm.data.stream.plan import Position
from stm.log import get_logger
from stm.patience import at_once
from stm.storage import (
    glob,
    is_url,
    join,
    move_file,
    remove_folder,
    remove_partial,
    write_bytes,
    write_folder,
)

logger = get_logger(__name__)

SET_ASIDE = "damaged-meta.json"
"""What ``meta.json`` of a damaged checkpoint is called, so that it does not count and can be looked at."""
_MOST_WAITING = 3


class CheckpointStore:
    """The checkpoints of one run directory (a local path or a URL). Cheap to make and to pickle.

    With the token of a ``lease`` it commits nothing once another driver has taken the run.
    """

    def __init__(self, run_directory: str, lease: str | None = None) -> None:
        self.run_directory = run_directory.rstrip("/")
        self.lease = lease
        self.newest: str | None = None
        """The newest checkpoint that was seen or committed through this object: no look at a store that may be away."""

    def commit(self, step: int, write: Callable[[Path], None]) -> str:
        """Keep what ``write(folder)`` writes as the checkpoint of ``step``; returns its path.

        Raises ``OSError`` (a full disk, a store that is away), `Leased` where another driver has the run; what was
        there before is still there then.
        """
        path = join(self.run_directory, f"checkpoint-{step:08d}")
        write_folder(path, write, last=META, check=self.check_lease)
        self.newest = path
        return path

    def is_there(self) -> bool:
        """Whether the run's folder is there; an object store has none that could be missed."""
        return is_url(self.run_directory) or Path(self.run_directory).is_dir()

    def check_lease(self) -> None:
        """Raise `Leased` where another driver has taken the run that this store was opened for."""
        if self.lease is not None:
            lease.check(self.run_directory, self.lease)

    def checkpoints(self) -> list[tuple[str, Meta]]:
        """Every checkpoint with its meta, in the order of steps; one whose meta is damaged is passed over, with a
        warning."""
        found = []
        for path in self._paths():
            try:
                found.append((path, read_meta(path)))
            except Damaged as error:
                logger.warning(f"{error}: this checkpoint does not count")
        self.newest = found[-1][0] if found else None
        return found

    def latest(self) -> tuple[str, Meta] | None:
        """The newest checkpoint, or None before the first. Its other files are not looked at."""
        found = self.checkpoints()
        return found[-1] if found else None

    def take_whole(self, warn: Callable[[str], None] = logger.warning) -> tuple[str, Meta] | None:
        """The newest checkpoint of which every file is what was written, or None where there is none.

        Damaged ones that are newer are set aside, so that `latest` means the same to all that ask from now on.
        ``warn`` is told of each. Only the driver of a run calls this. Raises ``OSError``, ``UserError`` where a
        store is away or a checkpoint is of another version: that is no damage.
        """
        counted = self._paths()
        for path in reversed(self._folders()):
            if path not in counted:
                warn(f"{path} has no {META}, so it does not count: the one before it is taken")
                continue
            try:
                meta = read_meta(path)
                check_whole(path, meta)
            except Damaged as error:
                move_file(join(path, META), join(path, SET_ASIDE))
                warn(f"{error}. This checkpoint is set aside, and the one before it is taken")
                continue
            return path, meta
        return None

    def prune(self) -> None:
        """Remove all but the newest two checkpoints, the best by validation, the newest few that wait for theirs, and
        what crashes left half-written or half-removed.

        What cannot be removed stays, with a warning: that is no reason to stop a run. Nor is what another process may
        be writing touched: half-written ones go when their writer is dead, those without a meta when the run has passed
        them. A store that is away is not waited for: the next call removes as much.
        """
        with at_once(), self._staying(self.run_directory):
            self._prune()

    def _prune(self) -> None:
        found = self.checkpoints()
        if not found:
            return
        newest = found[-1][0]
        waiting = [path for path, meta in found if meta.awaits_validation][-_MOST_WAITING:]
        keep = {*(path for path, _ in found[-2:]), best(found)[0], *waiting}
        counted = self._paths()
        for path in self._folders():
            with self._staying(path):
                if path not in counted and path < newest:
                    remove_folder(path)
                elif path in counted and path < newest and path not in keep:
                    self.remove(path)
        remove_partial(self.run_directory, "checkpoint-*")

    @contextlib.contextmanager
    def _staying(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            logger.warning(f"{path}: old checkpoints could not be removed and stay: {error}")

    def remove(self, path: str) -> None:
        """Remove a checkpoint; from the first moment on it does not count. Raises ``OSError``."""
        remove_folder(path, first=META)

    def add_validation(self, path: str, metrics: dict[str, float]) -> None:
        """Add to a checkpoint what its validation found; nothing, where the validation is given up."""
        write_bytes(join(path, VALIDATION), sealed(metrics).encode())

    def _paths(self) -> list[str]:
        metas = glob(self.run_directory, f"checkpoint-*/{META}")
        return [meta.removesuffix(f"/{META}") for meta in metas]

    def _folders(self) -> list[str]:
        """Those without ``meta.json`` too."""
        return glob(self.run_directory, "checkpoint-*")


def validated_on(found: list[tuple[str, Meta]]) -> str:
    """Fingerprint of the manifest that the newest checkpoints are validated on: best is chosen among its validations.

    "" where nothing is validated, or by an older version, which kept no fingerprint.
    """
    return next((meta.val_fingerprint for _, meta in reversed(found) if meta.val_fingerprint), "")


def validated(meta: Meta, on: str) -> float | None:
    """Top-1 of a checkpoint on the manifest of the fingerprint ``on``; None where it was not validated on that."""
    return meta.metrics.get("val_top1") if meta.val_fingerprint == on else None


def best(found: list[tuple[str, Meta]], on: str | None = None) -> tuple[str, Meta]:
    """The checkpoint with the highest validation top-1, the newer of two equal ones; the last where none is validated.

    Only validations on one manifest are compared: that of the fingerprint ``on``, by default the newest.
    """
    on = validated_on(found) if on is None else on

    def order(pair: tuple[str, Meta]) -> tuple[float, Position]:
        top1 = validated(pair[1], on)
        return (-1.0 if top1 is None else top1, pair[1].position)

    return max(found, key=order)


def best_whole(found: list[tuple[str, Meta]]) -> tuple[str, Meta]:
    """The best checkpoint whose weights are what was written; a better one that is damaged is named in a warning.

    Raises `Damaged` where there is none.
    """
    on = validated_on(found)
    while True:
        pair = best(found, on)
        try:
            read_file(pair[0], MODEL)
            return pair
        except (Damaged, FileNotFoundError) as error:
            found = [each for each in found if each is not pair]
            said = str(error) if isinstance(error, Damaged) else f"{pair[0]}/{MODEL} is missing"
            if not found:
                raise Damaged(said) from error
            logger.warning(f"{said}: the next best checkpoint is taken")

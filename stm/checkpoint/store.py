"""Store the checkpoints of a run in a folder on a disk that all nodes share, or at a URL that fsspec accepts.

    RUN/checkpoint-00000120/    step 120: meta.json, model.safetensors, state.pt, history.json

A checkpoint is complete or absent. On a disk it is written under another name, flushed and renamed; in an object store
``meta.json`` is written last, and a folder without it is ignored. So after a crash, a full disk or the loss of a
machine, the newest complete checkpoint is valid.

A disk may still lose or change data. So a run that continues first reads the whole checkpoint
(`CheckpointStore.take_whole`). A damaged one is set aside and the previous one is used, which is why the last two are
always kept.
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
"""New name of ``meta.json`` in a damaged checkpoint, which is then ignored but can be examined."""
_MOST_WAITING = 3


class CheckpointStore:
    """The checkpoints of one run directory (a local path or a URL). Creating and pickling it is cheap.

    With the token of a ``lease``, it commits nothing after another driver has taken the run.
    """

    def __init__(self, run_directory: str, lease: str | None = None) -> None:
        self.run_directory = run_directory.rstrip("/")
        self.lease = lease
        self.newest: str | None = None
        """The newest checkpoint that this object has read or committed; reading this does not access the store."""

    def commit(self, step: int, write: Callable[[Path], None]) -> str:
        """Save what ``write(folder)`` writes as the checkpoint of ``step``; return its path.

        Raises ``OSError`` (a full disk, a store that does not answer), or `Leased` if another driver has the run. Other
        checkpoints are not changed.
        """
        path = join(self.run_directory, f"checkpoint-{step:08d}")
        write_folder(path, write, last=META, check=self.check_lease)
        self.newest = path
        return path

    def is_there(self) -> bool:
        """Return whether the run's folder exists; True for an object store, which has no folders."""
        return is_url(self.run_directory) or Path(self.run_directory).is_dir()

    def check_lease(self) -> None:
        """Raise `Leased` if another driver has taken the run since this store was created."""
        if self.lease is not None:
            lease.check(self.run_directory, self.lease)

    def checkpoints(self) -> list[tuple[str, Meta]]:
        """Return every checkpoint with its meta, in the order of steps; skip damaged metas, with a warning."""
        found = []
        for path in self._paths():
            try:
                found.append((path, read_meta(path)))
            except Damaged as error:
                logger.warning(f"{error}: this checkpoint is ignored")
        self.newest = found[-1][0] if found else None
        return found

    def latest(self) -> tuple[str, Meta] | None:
        """Return the newest checkpoint, or None if there is none. Only its meta is checked."""
        found = self.checkpoints()
        return found[-1] if found else None

    def take_whole(self, warn: Callable[[str], None] = logger.warning) -> tuple[str, Meta] | None:
        """Return the newest checkpoint whose files are all undamaged, or None if there is none.

        Damaged newer ones are set aside, so that `latest` returns the same checkpoint to all processes. ``warn`` is
        called for each, and then once with what the run does instead. Only the driver of a run calls this. Raises
        ``OSError`` if a store does not answer, and ``UserError`` if a checkpoint is of another version; neither counts
        as damage.
        """
        counted, passed_over = self._paths(), False
        for path in reversed(self._folders()):
            if path not in counted:
                warn(f"{path} has no {META}, so it is ignored")
                passed_over = True
                continue
            try:
                meta = read_meta(path)
                check_whole(path, meta)
            except Damaged as error:
                move_file(join(path, META), join(path, SET_ASIDE))
                warn(f"{error}. This checkpoint is set aside")
                passed_over = True
                continue
            if passed_over:
                warn(f"the run continues from {path}, which is undamaged")
            return path, meta
        if passed_over:
            warn(f"no undamaged checkpoint is left in {self.run_directory}, so the run begins anew")
        return None

    def prune(self) -> None:
        """Remove old checkpoints, and incomplete ones that crashes have left.

        Kept are the newest two, the best by validation, and the newest few that wait for their validation. If one
        cannot be removed, it stays and a warning is logged. Incomplete checkpoints are removed if their writer is dead,
        and those without a meta if a newer checkpoint exists. If a store does not answer, this does not wait; the next
        call removes them.
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
        """Remove a checkpoint, first its meta, so that it is ignored at once. Raises ``OSError``."""
        remove_folder(path, first=META)

    def add_validation(self, path: str, metrics: dict[str, float]) -> None:
        """Add the metrics of its validation to a checkpoint; they are empty if the validation was abandoned."""
        write_bytes(join(path, VALIDATION), sealed(metrics).encode())

    def _paths(self) -> list[str]:
        metas = glob(self.run_directory, f"checkpoint-*/{META}")
        return [meta.removesuffix(f"/{META}") for meta in metas]

    def _folders(self) -> list[str]:
        """Return all checkpoint folders, also those without ``meta.json``."""
        return glob(self.run_directory, "checkpoint-*")


def validated_on(found: list[tuple[str, Meta]]) -> str:
    """Return the fingerprint of the manifest on which the newest checkpoints are validated.

    "" if none is validated, or only by an older version, which stored no fingerprint.
    """
    return next((meta.val_fingerprint for _, meta in reversed(found) if meta.val_fingerprint), "")


def validated(meta: Meta, on: str) -> float | None:
    """Return a checkpoint's top-1 on the manifest with the fingerprint ``on``; None if it was not validated on it."""
    return meta.metrics.get("val_top1") if meta.val_fingerprint == on else None


def best(found: list[tuple[str, Meta]], on: str | None = None) -> tuple[str, Meta]:
    """Return the checkpoint with the highest validation top-1 (the newer of equal ones), or the last if there is none.

    Only validations on one manifest are compared: that with the fingerprint ``on``, by default the newest.
    """
    on = validated_on(found) if on is None else on

    def order(pair: tuple[str, Meta]) -> tuple[float, Position]:
        top1 = validated(pair[1], on)
        return (-1.0 if top1 is None else top1, pair[1].position)

    return max(found, key=order)


def best_whole(found: list[tuple[str, Meta]]) -> tuple[str, Meta]:
    """Return the best checkpoint whose weights are undamaged; a warning names better ones that are damaged.

    Raises `Damaged` if there is none.
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
            logger.warning(f"{said}: the next best checkpoint is tried")

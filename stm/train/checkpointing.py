"""Decides when a checkpoint is due, and saves it. Rank 0 writes it; the other ranks go on to the next step."""

from __future__ import annotations

import math
import time
from typing import Any

from stm.checkpoint import format as checkpoints
from stm.checkpoint.lease import Leased
from stm.checkpoint.store import CheckpointStore
from stm.log import get_logger
from stm.patience import forget, patience
from stm.storage import StorageError
from stm.train.events import Kept
from stm.train.group import Group
from stm.train.job import Job, Place, StopRun
from stm.train.preemption import PreemptionWatch
from stm.train.replica import Replica

logger = get_logger(__name__)

KEEP_HISTORY_S = 60.0
"""Steps more recent than this also go into the next checkpoint, in case the driver died before it recorded them."""


class Checkpoints:
    """Saves checkpoints of ``replica``; ``history`` has the steps since the last one, and recent ones before it."""

    def __init__(
        self,
        job: Job,
        group: Group,
        place: Place,
        replica: Replica,
        store: CheckpointStore,
        history: list[dict[str, Any]],
    ) -> None:
        self._job, self._group, self._place = job, group, place
        self._replica, self._store = replica, store
        self.history = history
        # Meanwhile the other ranks wait; they fail after `train.collective_timeout_s`.
        wait_s = job.config.train.collective_timeout_s / 2 if group.world_size > 1 else math.inf
        self._patience_s = min(job.config.train.store_patience_s, wait_s)
        self._saved_at = time.monotonic()
        minutes = job.config.train.checkpoint_every_minutes
        self._preemption = PreemptionWatch(
            group.rank,
            group.world_size,
            group.device,
            place.step,
            job.board,
            oldest_s=math.inf if minutes is None else 60 * minutes,
        )

    def due(self) -> bool:
        """Whether to save a checkpoint now: by step number, by time, or because a node or the driver is about to stop.

        All ranks must call it at the same step; all get the same answer.
        """
        save = self._job.config.train.checkpoint_every_steps
        step = self._place.step
        return bool(save and step % save == 0) or self._preemption.wants_checkpoint(
            step, time.monotonic() - self._saved_at
        )

    def check_lease(self) -> None:
        """Raise ``StopRun`` if another driver has taken over the run: these workers have outlived their own driver."""
        try:
            self._store.check_lease()
        except Leased as error:
            raise StopRun(str(error)) from error

    def save(self, metrics: dict[str, Any], awaits_validation: bool = False) -> None:
        """Save a checkpoint at this place. Rank 0 writes it; the others go on and wait for rank 0 at the next step."""
        if self._group.rank != 0:
            self.history = []
            return
        job, place = self._job, self._place
        self._saved_at = time.monotonic()
        if (
            not self._store.is_there()
        ):  # a new folder would be created below the mount point, and hidden by the next mount
            where = self._store.run_directory
            self._failed(StorageError(f"{where} is gone: mount its disk again"))
            return
        if metrics:
            self.history.append({"time": time.time(), "step": place.step, "epoch": metrics})
        meta = checkpoints.Meta(
            config=job.config.to_dict(),
            classes=job.classes,
            dataset=job.dataset,
            class_counts=job.class_counts,
            class_weights=job.class_terms.weights if job.class_terms else None,
            position=place.position,
            step=place.step,
            fingerprint=job.fingerprint,
            val_fingerprint=job.val_fingerprint,
            val_dataset=job.val_dataset,
            world_size=self._group.world_size,
            metrics=metrics,
            versions=job.versions,
            mlflow_run_id=job.mlflow_run_id,
            awaits_validation=awaits_validation,
            started_from=job.started_from,
        )
        state = self._replica.state()
        if self._is_last:
            forget()  # allow the full waiting time again, even if an earlier outage used it up
        try:
            with patience(self._patience_s):
                path = self._store.commit(
                    place.step,
                    lambda folder: checkpoints.write(
                        folder, self._replica.shipped, state, meta, self.history, job.plugin
                    ),
                )
        except Leased as error:
            raise StopRun(str(error)) from error
        except OSError as error:
            self._failed(error)
            return
        self._group.post(Kept(path=path, step=place.step, history=self.history))
        self.history = [row for row in self.history if row["time"] > time.time() - KEEP_HISTORY_S]
        with patience(self._patience_s):
            self._store.prune()

    @property
    def _is_last(self) -> bool:
        return self._place.position.epoch >= self._job.config.optim.epochs

    def _failed(self, error: OSError) -> None:
        """Log that the checkpoint is missing and go on; raise ``StopRun`` if it was the last one."""
        newest, where = self._store.newest, self._job.run_directory
        said = (
            f"the checkpoint of step {self._place.step} could not be written ({error}). "
            + (f"The last good one is {newest}" if newest else "There is none yet")
            + (f": make room in {where}" if not isinstance(error, StorageError) else "")
        )
        if self._is_last:
            raise StopRun(said + ", then run the same command again")
        logger.warning(said + "; training goes on")

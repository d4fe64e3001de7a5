"""The training loop that every rank runs inside Ray Train.

Resuming is exact. Order, frames and crops follow from (seed, epoch, video), dropout and mixing from (seed, step, rank),
and the learning rate from the step. So a checkpoint is weights, optimizer state and a position. A run that continues
from it takes the same steps that the interrupted run would have taken.

Gradients are weighted sums divided by the global weight, so padding and unreadable videos have no effect.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from stm.checkpoint import format as checkpoints
from stm.checkpoint.store import CheckpointStore
from stm.data.stream.graph import ClipBatch
from stm.data.stream.plan import Position, mix, validates
from stm.log import shown_by
from stm.model import plugins
from stm.patience import patience
from stm.storage import StorageError, is_url
from stm.train.batches import Batches
from stm.train.checkpointing import Checkpoints
from stm.train.events import EpochEnded, Kept, Started
from stm.train.group import Group
from stm.train.job import Job, Place, StopRun
from stm.train.optim import learning_rate
from stm.train.progress import BoardHandler, Pulse
from stm.train.replica import Replica
from stm.train.reporting import Report
from stm.train.start import in_worker
from stm.train.validation import validate


def train_loop(settings: dict[str, Job]) -> dict[str, Any]:
    """Run one rank from the last checkpoint to the end.

    Returns ``{"stopped": reason, "rows": [...]}`` if the run cannot go on (a loss that is not finite, too many
    unreadable videos, a store that is unreachable for too long), else ``{}``. All ranks agree on it. Nothing is raised,
    so that Ray does not retry what would fail again.
    """
    job = settings["job"]
    handler = shown_by(BoardHandler(job.board), logging.DEBUG)
    with handler, patience(job.config.train.store_patience_s):
        try:
            rank = _Rank(job)
            with contextlib.closing(rank.pulse):
                rank.run()
        except StopRun as stop:
            return {"stopped": str(stop), "rows": stop.rows}
        except StorageError as error:
            if not is_url(
                job.run_directory
            ):  # it is a disk of this node; a retry may use another node
                raise
            kept = "What was kept stays, and the same command goes on from there"
            return {"stopped": f"{error}. {kept}", "rows": []}
    return {}


class _Rank:
    """One rank of the run: it takes a step per batch, and validates and saves a checkpoint after every epoch."""

    def __init__(self, job: Job) -> None:
        self.job, self.config = job, job.config
        self.group = Group(job.board)
        self.pulse = Pulse(job.board, self.group.rank)
        torch.set_num_threads(self.group.num_threads(self.config.train.threads_per_worker))
        torch.manual_seed(self.config.train.seed)
        store = CheckpointStore(job.run_directory, job.lease)
        found = store.latest()
        plugins.receive([job.plugin] if job.plugin else [])
        self.replica = Replica(
            self.config,
            len(job.classes),
            self.group.device,
            self.group.world_size,
            found[0] if found else None,
            None if found else in_worker(job),
            job.class_terms,
        )
        position, history = Position(), list[dict[str, Any]]()
        if found is not None:
            path, meta = found
            position, history = meta.position, checkpoints.read_history(path)
            self.group.post(Kept(path=path, step=meta.step, history=history))
        self.place = Place(job, position)
        self.report = Report(job, self.group, self.place, store)
        self.batches = Batches(job, self.group, self.place, self.report, self.pulse)
        self.checkpoints = Checkpoints(job, self.group, self.place, self.replica, store, history)

    def run(self) -> None:
        """Train from the position of the last checkpoint to the end of the last epoch."""
        self.checkpoints.check_lease()
        place = self.place
        self.group.post(
            Started(step=place.step, epoch=place.position.epoch, world_size=self.group.world_size)
        )
        with self.batches.open() as batches:
            for batch in self.batches.training(batches):
                self._train_step(batch)
                if place.position.offset == 0:
                    self._end_epoch(batches)
                elif self.checkpoints.due():
                    self._save({})
                elif self.report.is_due():
                    self.checkpoints.history += self.report.flush()

    def _train_step(self, batch: ClipBatch) -> None:
        place, seed = self.place, self.config.train.seed
        rate = learning_rate(self.config.optim, place.step, place.steps_per_epoch)
        own_seed = int(mix(seed, place.step, self.group.rank) >> np.uint64(1))
        with self.report.clock.step():
            sums, waited_s = self.replica.step(batch, rate, own_seed)
        self.report.step(batch, sums, waited_s, rate)
        place.advance(batch.epoch, batch.offset_end)

    def _end_epoch(self, batches: Iterator[ClipBatch]) -> None:
        """Validate if it is due, and save a checkpoint."""
        self.checkpoints.history += self.report.settle()
        epochs_done, config = self.place.position.epoch, self.config
        failures = self.report.take_failures()
        self.report.end_epoch()
        metrics: dict[str, Any] = {"epoch": epochs_done, "unreadable": len(failures)}
        due = self.job.num_val_usable > 0 and validates(
            epochs_done, config.train.val_every_epochs, config.optim.epochs
        )
        if due and not self.job.validates_elsewhere:
            self.pulse.doing("validating", self.place.step)
            metrics |= validate(
                self.replica.shipped,
                batches,
                self.job.num_val_videos,
                self.job.num_val_usable,
                self.replica.transfer,
                self.replica.autocast,
            )
        self.group.post(
            EpochEnded(
                epoch=epochs_done, epochs=config.optim.epochs, failures=failures, metrics=metrics
            )
        )
        self._save(metrics, awaits_validation=due and self.job.validates_elsewhere)
        self.report.restart()

    def _save(self, metrics: dict[str, Any], awaits_validation: bool = False) -> None:
        self.checkpoints.history += self.report.settle()
        if self.group.rank == 0:
            self.pulse.doing("writing a checkpoint", self.place.step)
        self.checkpoints.save(metrics, awaits_validation)

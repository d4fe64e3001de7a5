"""The batches that a rank trains on: checks their order, and measures the time spent waiting for them."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator

import ray
import ray.train

from stm.data.stream.clips import ClipSpec
from stm.data.stream.graph import BLOCK_BYTES, ClipBatch, iterate, steps_per_block
from stm.data.stream.plan import shares
from stm.data.stream.streams import SHARD
from stm.data.stream.waiting import WaitMonitor
from stm.log import flush, get_logger
from stm.train.group import Group
from stm.train.job import Job, Place
from stm.train.progress import Pulse
from stm.train.reporting import Report

logger = get_logger(__name__)

GAVE_UP_WAITING = 78
"""Exit status of a rank that waited too long for its clips."""


class Batches:
    """This rank's share of the stream."""

    def __init__(self, job: Job, group: Group, place: Place, report: Report, pulse: Pulse) -> None:
        self._job, self._group, self._place = job, group, place
        self._report, self._pulse = report, pulse

    @contextlib.contextmanager
    def open(self) -> Iterator[Iterator[ClipBatch]]:
        """Yield all batches, of training and validation; log a long wait, and end this rank at the deadline."""
        data = self._job.config.data
        shard = ray.train.get_dataset_shard(SHARD)
        after_s = min(60.0, data.wait_deadline_s)
        with WaitMonitor(self._log_waiting, after_s) as monitor:
            local_batch = -(-self._job.config.optim.batch_size // self._group.world_size)
            clip = ClipSpec.one_clip(data)
            steps = steps_per_block(clip, local_batch, data.clips_per_task, BLOCK_BYTES)
            yield iterate(shard, -(-data.prefetch_batches // steps), monitor)

    def training(self, batches: Iterator[ClipBatch]) -> Iterator[ClipBatch]:
        """Yield the batch of each training step, and report how long it was waited for."""
        while True:
            self._pulse.doing("waiting for clips", self._place.step + 1)
            began = time.perf_counter()
            batch = next(batches, None)
            waited_s = time.perf_counter() - began
            if batch is None:
                return
            self._report.waited(waited_s)
            self._pulse.doing("computing", self._place.step + 1)
            self._check_order(batch)
            yield batch

    def _check_order(self, batch: ClipBatch) -> None:
        """Raise ``RuntimeError`` if the batch is not the next step's: the stream may start at another checkpoint."""
        due = (self._place.position.epoch, self._place.next_end, False)
        came = (batch.epoch, batch.offset_end, batch.validation)
        if came != due:
            raise RuntimeError(
                f"rank {self._group.rank} was dealt the step that ends at {came} (epoch, sample, validation), "
                f"due was {due}"
            )

    def _log_waiting(self, waited_s: float) -> None:
        """Log which batch is missing and how many CPUs decoding has; end this rank at the deadline."""
        job, config, rank = self._job, self._job.config, self._group.rank
        share = next(
            itertools.islice(
                shares(
                    job.num_videos,
                    global_batch=config.optim.batch_size,
                    world_size=self._group.world_size,
                    seed=config.train.seed,
                    start=self._place.position,
                    num_epochs=config.optim.epochs,
                ),
                rank,
                None,
            )
        )
        free = ray.available_resources().get("CPU", 0)
        message = (
            f"rank {rank} has waited {waited_s:.0f} s for the clips of step {self._place.step + 1} (rows "
            f"{share.videos[share.videos >= 0].tolist()} of the usable training videos). Decoding tasks need "
            f"{config.data.cpus_per_task:g} CPU each; {free:g} CPU are free now: 0 means that decoding is "
            "starved or slow, more that storage is, or that nodes are still starting"
        )
        hopeless = waited_s >= config.data.wait_deadline_s
        if hopeless:
            message += ". That is --data.wait_deadline_s: this rank ends"
        logger.warning(message)
        if hopeless:
            flush()
            os._exit(GAVE_UP_WAITING)  # the waiting thread cannot be interrupted

"""The training loop that every rank runs inside Ray Train.

Exactness. Order, frames and crops follow from (seed, epoch, video), dropout and mixing from (seed, step, rank), the
learning rate from the step. So a checkpoint is weights, optimizer state and a position, and the run that continues
from it takes the very steps the interrupted run would have taken.

Gradients are sums over sample weights divided by the global weight: padding and unreadable videos change nothing.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from stm.checkpoint import format as checkpoints
from stm.checkpoint.store import CheckpointStore
from stm.config import Config
from stm.data.roots import IF_MOVED
from stm.data.stream.graph import SHARD, ClipBatch, iterate
from stm.data.stream.plan import Position, mix, shares, step_of, steps_per_epoch, validates
from stm.data.stream.waiting import WaitMonitor
from stm.log import get_logger, shown_by
from stm.train.clock import StepClock, share_waited
from stm.train.optim import learning_rate
from stm.train.preemption import PreemptionWatch
from stm.train.progress import BoardHandler, Pulse, slow_rank
from stm.train.replica import Replica
from stm.train.validation import validate

logger = get_logger(__name__)

KEEP_HISTORY_S = 60.0
"""Steps younger than this go into the next checkpoint once more: a driver that died may not have recorded them."""


GAVE_UP_WAITING = 78
"""Exit status of a rank that waited too long for its clips."""


class StopRun(Exception):
    """Going on makes no sense, and all ranks know it. ``rows`` are the training videos it is about."""

    def __init__(self, reason: str, rows: list[int] | None = None) -> None:
        super().__init__(reason)
        self.rows = rows or []


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the driver tells every rank."""

    config: Config
    run_directory: str
    classes: list[str]
    dataset: str
    fingerprint: str
    num_videos: int
    """Usable rows of the training manifest."""
    num_val_videos: int = 0
    """All rows of the validation manifest; the unreadable ones count as wrong."""
    num_val_usable: int = 0
    validates_elsewhere: bool = False
    """Validation is not part of the stream: the driver does it from checkpoints."""
    board: Any = None
    """Progress board (an actor), or None."""
    mlflow_run_id: str | None = None
    versions: dict[str, str] = field(default_factory=dict)


def train_loop(settings: dict[str, Job]) -> dict[str, Any]:
    """Run one rank from the last checkpoint to the end.

    Returns ``{"stopped": reason, "rows": [...]}`` where going on makes no sense (a loss that is not finite, too many
    unreadable videos): every rank agrees on it, and Ray does not retry what would only happen again. Else ``{}``.
    """
    job = settings["job"]
    log = BoardHandler(job.board)
    with shown_by(log, logging.DEBUG):
        rank = _Rank(job, log)
        try:
            rank.run()
        except StopRun as stop:
            return {"stopped": str(stop), "rows": stop.rows}
        finally:
            rank.pulse.close()
    return {}


class _Rank:
    def __init__(self, job: Job, log: BoardHandler) -> None:
        self.job, self.config, self.log = job, job.config, log
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.pulse = Pulse(job.board, self.rank)
        self.device = ray.train.torch.get_device()
        torch.set_num_threads(self._num_threads(context.get_local_world_size()))
        torch.manual_seed(self.config.train.seed)
        self.store = CheckpointStore(job.run_directory)
        found = self.store.latest()
        self.replica = Replica(
            self.config,
            len(job.classes),
            self.device,
            self.world_size,
            found[0] if found else None,
        )
        self.position, self.history = Position(), list[dict[str, Any]]()
        if found is not None:
            path, meta = found
            self.position, self.history = meta.position, checkpoints.read_history(path)
            self._post("committed", path=path, step=meta.step, history=self.history)
        self.steps_per_epoch = steps_per_epoch(job.num_videos, self.config.optim.batch_size)
        self.step = step_of(self.position, job.num_videos, self.config.optim.batch_size)
        self.window = _Window()
        self.clock = StepClock(self.device)
        self.failures: list[dict[str, str]] = []
        self.saved_at = time.monotonic()
        self.preemption = PreemptionWatch(self.rank, self.world_size, self.device, self.step)

    def _num_threads(self, local_world_size: int) -> int:
        if self.config.train.threads_per_worker:
            return self.config.train.threads_per_worker
        if self.device.type == "cuda":
            return 1
        return max(1, (os.cpu_count() or 1) // local_world_size)

    # ------------------------------------------------------------------ the epochs

    def run(self) -> None:
        """From the position of the last checkpoint to the end of the last epoch."""
        config = self.config.train
        self._post("start", step=self.step, epoch=self.position.epoch, world_size=self.world_size)
        shard = ray.train.get_dataset_shard(SHARD)
        after_s = min(60.0, self.config.data.wait_deadline_s)
        with WaitMonitor(self._log_waiting, after_s) as monitor:
            batches = iterate(shard, self.config.data.prefetch_batches, monitor)
            for batch in self._timed(batches):
                self._check_order(batch)
                self._train_step(batch)
                if self.position.offset == 0:
                    self._flush()
                    self._end_epoch(batches)
                    continue
                save = config.checkpoint_every_steps
                if (save and self.step % save == 0) or self.preemption.wants_checkpoint(
                    self.step, time.monotonic() - self.saved_at
                ):
                    self._flush()
                    self._save({})
                elif self.step % config.log_every_steps == 0:
                    self._flush()
                    if self._checkpoint_is_old():
                        self._save({})

    def _timed(self, batches: Iterator[ClipBatch]) -> Iterator[ClipBatch]:
        """The batches; what they are waited for goes into the window."""
        while True:
            self.pulse.doing("waiting for clips", self.step + 1)
            began = time.perf_counter()
            batch = next(batches, None)
            waited = time.perf_counter() - began
            if batch is None:
                return
            self.window.wait_s += waited
            if self.window.first_batch_s is None and self.position.offset == 0:
                self.window.first_batch_s = waited
            self.pulse.doing("computing", self.step + 1)
            yield batch

    def _check_order(self, batch: ClipBatch) -> None:
        """The stream was built for a checkpoint that was found at another moment: it must be the same one."""
        expected = min(self.position.offset + self.config.optim.batch_size, self.job.num_videos)
        due = (self.position.epoch, expected, False)
        came = (batch.epoch, batch.offset_end, batch.validation)
        if came != due:
            raise RuntimeError(
                f"rank {self.rank} was dealt the step that ends at {came} (epoch, sample, validation), due was {due}"
            )

    def _train_step(self, batch: ClipBatch) -> None:
        rate = learning_rate(self.config.optim, self.step, self.steps_per_epoch)
        seed = int(mix(self.config.train.seed, self.step, self.rank) >> np.uint64(1))
        with self.clock.step():
            sums, waited_s = self.replica.step(batch, rate, seed)
        self.window.sums.append(sums)
        self.window.sync_s += waited_s
        self.window.videos.append(batch.videos)
        self.window.rates.append(rate)
        self.failures += batch.failures
        self.step += 1
        ended = batch.offset_end >= self.job.num_videos
        self.position = (
            Position(batch.epoch + 1, 0) if ended else Position(batch.epoch, batch.offset_end)
        )

    def _end_epoch(self, batches: Iterator[ClipBatch]) -> None:
        """Validate where it is due, and keep a checkpoint."""
        epochs_done, config = self.position.epoch, self.config
        failures = [failure for per_rank in self._gather(self.failures) for failure in per_rank]
        self.failures = []
        metrics: dict[str, Any] = {"epoch": epochs_done, "unreadable": len(failures)}
        due = self.job.num_val_usable > 0 and validates(
            epochs_done, config.train.val_every_epochs, config.optim.epochs
        )
        if due and not self.job.validates_elsewhere:
            self.pulse.doing("validating", self.step)
            metrics |= validate(
                self.replica.shipped,
                batches,
                self.job.num_val_videos,
                self.job.num_val_usable,
                self.device,
                self.replica.autocast,
            )
        self._post("epoch", epochs=config.optim.epochs, failures=failures, **metrics)
        self._save(metrics, awaits_validation=due and self.job.validates_elsewhere)
        self.window = _Window()  # an epoch's end is not a step's time

    # ------------------------------------------------------------------ what is said about it

    def _flush(self) -> None:
        """Sum the window's steps over all ranks, show and keep them; raises `StopRun` where that must end the run."""
        window, self.window = self.window, _Window()
        if not window.sums:
            return
        computed_s = self.clock.take()
        total_s = time.perf_counter() - window.started
        mine = [float(len(self.failures)), window.wait_s, window.sync_s]
        table = torch.cat([torch.stack(window.sums), self._one_row_a_rank(mine)])
        if self.world_size > 1:
            dist.all_reduce(table)
        rows = table.tolist()
        steps, ranks = rows[: len(window.sums)], rows[len(window.sums) :]
        first = self.step - len(steps)
        for i, (loss_sum, weight, correct) in enumerate(steps):
            if not math.isfinite(loss_sum):
                raise self._not_finite(first + i + 1, window.videos[i])
            weight = max(weight, 1.0)
            self.history.append(
                {
                    "time": time.time(),
                    "step": first + i + 1,
                    "loss": loss_sum / weight,
                    "top1": correct / weight,
                    "lr": window.rates[i],
                }
            )
        num_failed = int(sum(failed for failed, _, _ in ranks))
        allowed = math.ceil(self.config.data.max_bad_fraction * self.job.num_videos)
        if num_failed > allowed:
            raise StopRun(self._name_failures(num_failed, allowed))
        self._post(
            "steps",
            step=self.step,
            epoch=self.position.epoch if self.position.offset else self.position.epoch - 1,
            step_in_epoch=(self.step - 1) % self.steps_per_epoch + 1,
            steps_per_epoch=self.steps_per_epoch,
            loss=self.history[-1]["loss"],
            mean_loss=sum(row[0] for row in steps) / max(sum(row[1] for row in steps), 1),
            lr=window.rates[-1],
            clips_per_s=sum(row[1] for row in steps) / total_s,
            wait_share=share_waited(window.wait_s, computed_s, total_s),
            first_batch_s=window.first_batch_s,
            memory_bytes=torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0,
            slow=slow_rank([wait for _, wait, _ in ranks], [sync for _, _, sync in ranks], total_s),
        )

    def _one_row_a_rank(self, values: list[float]) -> torch.Tensor:
        """float64 [world size, 3] with ``values`` in this rank's row: summed over ranks, everybody's."""
        rows = torch.zeros(self.world_size, 3, dtype=torch.float64, device=self.device)
        rows[self.rank] = torch.tensor(values, dtype=torch.float64)
        return rows

    def _not_finite(self, step: int, videos: np.ndarray) -> StopRun:
        found = self.store.latest()
        last = f"The last good checkpoint is {found[0]}" if found else "There is no checkpoint yet"
        rows = sorted(int(v) for v in np.concatenate(self._gather(videos)) if v >= 0)
        return StopRun(
            f"the loss of step {step} is not finite. {last}: lower --optim.lr, or look at the videos of that batch",
            rows,
        )

    def _name_failures(self, num_failed: int, allowed: int) -> str:
        failures = [failure for per_rank in self._gather(self.failures) for failure in per_rank]
        listed = "; ".join(f"{failure['path']} ({failure['reason']})" for failure in failures[:10])
        all_lost = {failure["reason"] for failure in failures} == {"not_found"}
        return (
            f"{num_failed} videos of epoch {self.position.epoch} could not be decoded, more than the {allowed} that "
            f"--data.max_bad_fraction {self.config.data.max_bad_fraction} allows: {listed}. "
            + (IF_MOVED if all_lost else "Index again with `stm index`, or raise the fraction")
        )

    def _gather(self, value: Any) -> list[Any]:
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value)
        return gathered

    def _log_waiting(self, waited_s: float) -> None:
        """Log which batch is missing, and what decoding has to work with."""
        share = next(
            itertools.islice(
                shares(
                    self.job.num_videos,
                    global_batch=self.config.optim.batch_size,
                    world_size=self.world_size,
                    seed=self.config.train.seed,
                    start=self.position,
                    num_epochs=self.config.optim.epochs,
                ),
                self.rank,
                None,
            )
        )
        free = ray.available_resources().get("CPU", 0)
        message = (
            f"rank {self.rank} has waited {waited_s:.0f} s for the clips of step {self.step + 1} (rows "
            f"{share.videos[share.videos >= 0].tolist()} of the usable training videos). Decoding tasks need "
            f"{self.config.data.cpus_per_task:g} CPU each; {free:g} CPU are free now: 0 means that decoding is "
            "starved or slow, more that storage is, or that nodes are still starting"
        )
        hopeless = waited_s >= self.config.data.wait_deadline_s
        if hopeless:
            message += ". That is --data.wait_deadline_s: this rank ends"
        logger.warning(message)
        if hopeless:
            self.log.wait()
            os._exit(GAVE_UP_WAITING)  # the waiting thread cannot be interrupted

    def _post(self, kind: str, **values: Any) -> None:
        if self.rank == 0 and self.job.board is not None:
            self.job.board.post.remote({"kind": kind, "time": time.time(), **values})

    # ------------------------------------------------------------------ checkpoints

    def _checkpoint_is_old(self) -> bool:
        """By the clock of rank 0, which is the one that writes; saving is no collective."""
        limit = self.config.train.checkpoint_every_minutes
        return limit is not None and time.monotonic() - self.saved_at > 60 * limit

    def _save(self, metrics: dict[str, Any], awaits_validation: bool = False) -> None:
        """Keep a checkpoint of this position. Rank 0 writes it; the others go on and meet it at the next step."""
        if self.rank != 0:
            self.history = []
            return
        self.saved_at = time.monotonic()
        self.pulse.doing("writing a checkpoint", self.step)
        if metrics:
            self.history.append({"time": time.time(), "step": self.step, "epoch": metrics})
        meta = checkpoints.Meta(
            config=self.config.to_dict(),
            classes=self.job.classes,
            dataset=self.job.dataset,
            position=self.position,
            step=self.step,
            fingerprint=self.job.fingerprint,
            world_size=self.world_size,
            metrics=metrics,
            versions=self.job.versions,
            mlflow_run_id=self.job.mlflow_run_id,
            awaits_validation=awaits_validation,
        )
        state = self.replica.state()
        try:
            path = self.store.commit(
                self.step,
                lambda folder: checkpoints.write(
                    folder, self.replica.shipped, state, meta, self.history
                ),
            )
        except OSError as error:
            self._checkpoint_failed(error)
            return
        self._post("committed", path=path, step=self.step, history=self.history)
        self.history = [row for row in self.history if row["time"] > time.time() - KEEP_HISTORY_S]
        self.store.prune()

    def _checkpoint_failed(self, error: OSError) -> None:
        """Training goes on without this checkpoint, if there is more to train; the next one may succeed."""
        found = self.store.latest()
        said = (
            f"the checkpoint of step {self.step} could not be written ({error}). "
            + (f"The last good one is {found[0]}" if found else "There is none yet")
            + f": make room in {self.job.run_directory}"
        )
        if self.position.epoch >= self.config.optim.epochs:
            raise StopRun(said + ", then run the same command again")
        logger.warning(said + "; training goes on")


@dataclass
class _Window:
    """The steps since the last line of progress; device tensors, fetched once a window."""

    sums: list[torch.Tensor] = field(default_factory=list)
    """Each float64 [3]: loss sum, weight, correct."""
    videos: list[np.ndarray] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    wait_s: float = 0.0
    """Waiting for clips."""
    sync_s: float = 0.0
    """Waiting for other ranks to begin the step (not seen on a GPU, whose collectives return at once)."""
    first_batch_s: float | None = None
    """What the first batch of an epoch was waited for, if it is in this window."""
    started: float = field(default_factory=time.perf_counter)

"""Turns events into log lines, Prometheus gauges and the MLflow record."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from stm.checkpoint import format as checkpoints
from stm.checkpoint.store import CheckpointStore
from stm.log import get_logger
from stm.plural import counted
from stm.redaction import one_line
from stm.spool import series
from stm.tracking import Tracker
from stm.train.events import EpochEnded, Event, Failed, Kept, Logged, Stepped
from stm.train.gauges import Gauges

logger = get_logger(__name__)


class Recorder:
    """Handles the events of one run. A step is recorded once, when a checkpoint contains it.

    So steps that are lost in a crash are never recorded, and steps repeated after a restart are not duplicated.
    """

    def __init__(self, tracker: Tracker, run: str) -> None:
        self._tracker, self._gauges = tracker, Gauges(run)
        self._steps_known = set(series(tracker.spool, "train/loss"))
        self._epochs_known = set(series(tracker.spool, "epoch"))

    def history(self, rows: list[dict[str, Any]]) -> None:
        """Record the steps and epochs of a checkpoint that are not recorded yet."""
        for row in rows:
            is_epoch = "epoch" in row
            known = self._epochs_known if is_epoch else self._steps_known
            if row["step"] in known:
                continue
            known.add(row["step"])
            values = (
                row["epoch"] if is_epoch else {f"train/{k}": row[k] for k in ("loss", "top1", "lr")}
            )
            self._tracker.metrics(values, row["step"], row["time"])

    def catch_up(self, store: CheckpointStore) -> None:
        """Record the steps in all checkpoints whose events were lost; skip what cannot be read."""
        with contextlib.suppress(Exception):  # a later read of the checkpoint reports the error
            for path, _ in store.checkpoints():
                self.history(checkpoints.read_history(path))

    def validation(self, step: int, metrics: dict[str, float]) -> None:
        """Record the metrics of an asynchronous validation."""
        self._tracker.metrics(metrics, step)
        self._gauges.validated(metrics)

    def handle(self, event: Event) -> None:
        """Log an event, and record it where needed."""
        self._gauges.see(event)
        if isinstance(event, Stepped):
            self._steps(event)
        elif isinstance(event, Logged):
            logging.getLogger(event.logger).log(event.level, event.message)
        elif isinstance(event, EpochEnded):
            self._epoch(event)
        elif isinstance(event, Kept):
            self.history(event.history)
            self._tracker.tags({"stm.checkpoint": event.path})
            self._tracker.deliver()
        elif isinstance(event, Failed):
            logger.warning(event.message)
            self._tracker.tags({"stm.last_failure": event.message[:500]})
            self._tracker.deliver()

    def _steps(self, event: Stepped) -> None:
        memory = f", {event.memory_bytes / 2**30:.1f} GiB" if event.memory_bytes else ""
        first = event.first_batch_s
        logger.info(
            f"epoch {event.epoch + 1} step {event.step_in_epoch}/{event.steps_per_epoch}"
            f"  loss {event.mean_loss:.3f}  lr {event.lr:.2g}  {event.clips_per_s:.1f} clips/s"
            f"  waiting for data {event.wait_share:.0%}{memory}"
            + (f"  (first batch after {first:.1f} s)" if first is not None else "")
        )
        if event.slow:
            logger.warning(f"  {event.slow}")
        speed = {"clips_per_s": event.clips_per_s, "data_wait_share": event.wait_share}
        if first is not None:
            speed["first_batch_s"] = first
        if event.memory_bytes:
            speed["memory_gib"] = event.memory_bytes / 2**30
        # MLflow orders the groups of its charts by name: the loss comes first.
        values = {f"train_speed/{key}": value for key, value in speed.items()}
        self._tracker.metrics(values, event.step, event.time)
        if self._tracker.away:
            self._tracker.deliver()

    def _epoch(self, event: EpochEnded) -> None:
        said = f"epoch {event.epoch}/{event.epochs} done"
        if "val_top1" in event.metrics:
            said += f"  val top-1 {event.metrics['val_top1']:.1%} of {event.metrics['val_num_videos']:.0f}"
            said += f", loss {event.metrics['val_loss']:.3f}"
        logger.info(said)
        for failure in event.failures[:10]:
            logger.warning(
                one_line(
                    f"  unreadable: {failure['path']}: {failure['reason']}: {failure['detail']}"
                )
            )


def failure_callback(board: Any, max_failures: int) -> Any:
    """Return a ``ray.train.UserCallback`` that posts to the board which rank failed, and that the workers restart."""
    import ray.train

    class Callback(ray.train.UserCallback):
        def after_exception(
            self, run_context: Any, worker_exceptions: dict[int, Exception]
        ) -> None:
            del run_context
            try:  # an exception here would end the run
                for rank, error in sorted(worker_exceptions.items()):
                    last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
                    message = f"rank {rank} failed: {last[0][:300]}"
                    board.post.remote(Failed(message=message))
                after = (
                    "as often as it takes" if max_failures < 0 else counted(max_failures, "time")
                )
                going_on = f"workers are started again from the last checkpoint ({after})"
                board.post.remote(Logged(message=going_on, level=logging.INFO, logger=__name__))
            except Exception:
                return

    return Callback()

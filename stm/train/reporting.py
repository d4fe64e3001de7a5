"""Reports steps: sums them over all ranks every few steps, and stops the run when they give a reason to."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from stm.checkpoint.store import CheckpointStore
from stm.data.roots import IF_MOVED
from stm.data.stream.graph import ClipBatch
from stm.data.stream.plan import Position
from stm.log import get_logger
from stm.plural import counted
from stm.train.clock import StepClock, share_waited
from stm.train.events import Stepped
from stm.train.group import Group
from stm.train.job import Job, Place, StopRun
from stm.train.progress import slow_rank

logger = get_logger(__name__)


SHOWN_EVERY_S = 15.0
"""Seconds between lines of progress; a longer step has a line of its own."""


@dataclass
class Window:
    """The steps since the last line of progress; device tensors, fetched once per window."""

    started: float
    sums: list[torch.Tensor] = field(default_factory=list)
    """Each float64 [3]: loss sum, weight, correct."""
    videos: list[np.ndarray] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    wait_s: float = 0.0
    """Seconds spent waiting for clips."""
    sync_s: float = 0.0
    """Seconds spent waiting for other ranks to begin the step (0 on a GPU, whose collectives return at once)."""
    first_batch_s: float | None = None
    """Seconds spent waiting for the first batch of an epoch, if it is in this window."""


@dataclass(frozen=True)
class Summing:
    """A window in flight: it is summed over all ranks and copied to the host while the device goes on."""

    window: Window
    table: torch.Tensor
    """float64 on the host: one row per step, then one row per rank; valid once ``copied`` is done."""
    copied: torch.cuda.Event | None
    computed_s: Callable[[], float]
    total_s: float
    step: int
    """The last step of the window."""
    position: Position
    """The position after that step."""
    memory_bytes: int


class Report:
    """Collects, sums and reports the steps of this rank; all ranks must call each method after the same steps.

    With ``lags`` a window is reported when the next one ends, so that the host does not wait for the GPU.
    """

    def __init__(
        self,
        job: Job,
        group: Group,
        place: Place,
        store: CheckpointStore,
        lags: bool | None = None,
    ) -> None:
        self._job, self._group, self._place, self._store = job, group, place, store
        self._lags = group.device.type == "cuda" if lags is None else lags
        self._window, self._summing = Window(time.perf_counter()), list[Summing]()
        self._most_steps = 1
        """Most steps in a window, so that lines come every ``SHOWN_EVERY_S``; the first window has one step."""
        self._failures: list[dict[str, str]] = []
        self._epoch = np.zeros(3)
        """Loss sum, weight and number of steps of this epoch on all ranks, since this process started."""
        self._told_of_chance = False
        self.clock = StepClock(group.device)

    def waited(self, seconds: float) -> None:
        """Note how long the batch of the next step was waited for."""
        self._window.wait_s += seconds
        if self._window.first_batch_s is None and self._place.position.offset == 0:
            self._window.first_batch_s = seconds

    def step(self, batch: ClipBatch, sums: torch.Tensor, sync_s: float, rate: float) -> None:
        """Note a step: ``sums`` and ``sync_s`` as ``stm.train.replica.Replica.step`` returned them, and its rate."""
        self._window.sums.append(sums)
        self._window.sync_s += sync_s
        self._window.videos.append(batch.videos)
        self._window.rates.append(rate)
        self._failures += batch.failures

    def restart(self) -> None:
        """Start a new window, so that the time between two epochs counts for no step."""
        self._window = Window(time.perf_counter())

    def take_failures(self) -> list[dict[str, str]]:
        """Return all decoding failures, of all ranks, since the last call."""
        failures = self._all_failures()
        self._failures = []
        return failures

    def end_epoch(self) -> None:
        """Warn, once, if the mean loss of a whole epoch after the warm-up is above that of guessing."""
        (loss_sum, weight, num_steps), self._epoch = self._epoch, np.zeros(3)
        config, num_classes, epoch = (
            self._job.config,
            len(self._job.classes),
            self._place.position.epoch,
        )
        whole = num_steps == self._place.steps_per_epoch and epoch > config.optim.warmup_epochs
        loss, chance = loss_sum / max(weight, 1), math.log(num_classes)
        if self._group.rank != 0 or self._told_of_chance or not whole or loss <= chance:
            return
        self._told_of_chance = True
        logger.warning(
            f"the mean loss of epoch {epoch} was {loss:.3f}, above the {chance:.3f} of guessing among {num_classes} "
            "classes. Where it stays there, the rate is too high"
            + (
                ", as the paper's is from random weights in small batches"
                if config.model.pretrained is None
                else ""
            )
            + f": try --optim.lr {config.optim.lr / 4:.2g} under another --train.name"
        )

    def is_due(self) -> bool:
        """Whether a line of progress is due, by the number of steps or by their duration; all ranks agree."""
        every = self._job.config.train.log_every_steps
        return self._place.step % every == 0 or len(self._window.sums) >= self._most_steps

    def flush(self) -> list[dict[str, Any]]:
        """End the window and report what is known; return a row of the history for each step reported.

        Raises ``StopRun`` if a loss is not finite, or if too many videos could not be decoded.
        """
        if self._window.sums:
            self._summing.append(self._sum())
        return self._tell(keep=1 if self._lags else 0)

    def settle(self) -> list[dict[str, Any]]:
        """End the window and report all steps; raises as ``flush`` does. Call it before a checkpoint."""
        return self.flush() + self._tell(keep=0)

    def _sum(self) -> Summing:
        """Start to sum the window over all ranks and to copy it to the host."""
        window, self._window = self._window, Window(time.perf_counter())
        computed_s, total_s = self.clock.take(), time.perf_counter() - window.started
        mine = [float(len(self._failures)), window.wait_s, window.sync_s, total_s]
        steps = torch.nn.functional.pad(torch.stack(window.sums), (0, 1))
        table = self._group.sum(torch.cat([steps, self._group.one_row_a_rank(mine)]))
        copied, memory_bytes = None, 0
        if table.device.type == "cuda":
            there, table = table, torch.empty(table.shape, dtype=table.dtype, pin_memory=True)
            table.copy_(there, non_blocking=True)
            copied, memory_bytes = torch.cuda.Event(), torch.cuda.max_memory_allocated()
            copied.record()
        step, position = self._place.step, self._place.position
        return Summing(window, table, copied, computed_s, total_s, step, position, memory_bytes)

    def _tell(self, keep: int) -> list[dict[str, Any]]:
        """Report all windows in flight except the ``keep`` newest."""
        history = []
        while len(self._summing) > keep:
            history += self._told(self._summing.pop(0))
        return history

    def _told(self, summed: Summing) -> list[dict[str, Any]]:
        if summed.copied is not None:
            summed.copied.synchronize()
        window, position, total_s = summed.window, summed.position, summed.total_s
        rows = summed.table.tolist()
        steps = [row[:3] for row in rows[: len(window.sums)]]
        failed, data_waits_s, sync_waits_s, totals_s = zip(*rows[len(window.sums) :], strict=True)
        self._most_steps = max(1, int(SHOWN_EVERY_S * len(steps) / max(totals_s)))
        history = self._history(window, steps, summed.step - len(steps))
        self._epoch += [*np.sum(steps, axis=0)[:2], len(steps)]
        num_failed = int(sum(failed))
        self._check_failures(num_failed)
        per_epoch = self._place.steps_per_epoch
        stepped = Stepped(
            step=summed.step,
            epoch=position.epoch if position.offset else position.epoch - 1,
            step_in_epoch=(summed.step - 1) % per_epoch + 1,
            steps_per_epoch=per_epoch,
            loss=history[-1]["loss"],
            mean_loss=sum(row[0] for row in steps) / max(sum(row[1] for row in steps), 1),
            lr=window.rates[-1],
            clips_per_s=sum(row[1] for row in steps) / total_s,
            wait_share=share_waited(window.wait_s, summed.computed_s(), total_s),
            first_batch_s=window.first_batch_s,
            memory_bytes=summed.memory_bytes,
            unreadable=num_failed,
            slow=slow_rank(data_waits_s, sync_waits_s, total_s),
        )
        self._group.post(stepped)
        return history

    def _history(
        self, window: Window, steps: list[list[float]], first: int
    ) -> list[dict[str, Any]]:
        history = []
        for i, (loss_sum, weight, correct) in enumerate(steps):
            if not math.isfinite(loss_sum):
                raise self._not_finite(first + i + 1, window.videos[i])
            weight = max(weight, 1.0)
            history.append(
                {
                    "time": time.time(),
                    "step": first + i + 1,
                    "loss": loss_sum / weight,
                    "top1": correct / weight,
                    "lr": window.rates[i],
                }
            )
        return history

    def _not_finite(self, step: int, videos: np.ndarray) -> StopRun:
        newest = self._store.newest
        last = f"The last good checkpoint is {newest}" if newest else "There is no checkpoint yet"
        rows = sorted(int(v) for v in np.concatenate(self._group.gather(videos)) if v >= 0)
        return StopRun(
            f"the loss of step {step} is not finite. {last}: lower --optim.lr, or look at the videos of that batch",
            rows,
        )

    def _check_failures(self, num_failed: int) -> None:
        most = self._job.config.data.max_bad_fraction
        allowed = math.ceil(most * self._job.num_videos)
        if num_failed <= allowed:
            return
        failures = self._all_failures()
        listed = "; ".join(f"{failure['path']} ({failure['reason']})" for failure in failures[:10])
        all_lost = {failure["reason"] for failure in failures} == {"not_found"}
        raise StopRun(
            f"{counted(num_failed, 'video')} of epoch {self._place.position.epoch} could not be decoded, more than "
            f"the {allowed} that --data.max_bad_fraction {most} allows: {listed}. "
            + (IF_MOVED if all_lost else "Index again with `stm index`, or raise the fraction")
        )

    def _all_failures(self) -> list[dict[str, str]]:
        return [failure for failures in self._group.gather(self._failures) for failure in failures]

"""What is told of the steps: every step once, in order, at once or a window late, and soon enough to be seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stm.checkpoint.store import CheckpointStore
from stm.config import Config
from stm.data.stream.graph import ClipBatch
from stm.data.stream.plan import Position
from stm.train import reporting
from stm.train.group import Group
from stm.train.job import Job, Place, StopRun
from stm.train.reporting import Report

NUM_VIDEOS, BATCH = 40, 4  # ten steps an epoch


class Told(Group):
    """This process alone, and what it posts."""

    def __init__(self):
        self.rank, self.world_size, self.device = 0, 1, torch.device("cpu")
        self.events = []

    def post(self, event):
        self.events.append(event)


def report_in(folder, *, lags, log_every_steps=4):
    config = Config.from_dict(
        {"optim": {"batch_size": BATCH, "epochs": 3}, "train": {"log_every_steps": log_every_steps}}
    )
    job = Job(
        config=config, run_directory=str(folder), classes=["a", "b"], dataset="made", fingerprint="",
        num_videos=NUM_VIDEOS, class_counts=[20, 20],
    )  # fmt: skip
    group, place = Told(), Place(job, Position())
    return Report(job, group, place, CheckpointStore(str(folder)), lags), group, place


def take_steps(report, place, number, loss=None, failures=()):
    """Steps whose loss is their number; rows of the history that were told, as the training loop asks for them."""
    rows = []
    for _ in range(number):
        step = place.step + 1
        end = place.next_end
        batch = ClipBatch(
            np.empty(0), np.empty(0), np.empty(0), np.arange(BATCH), place.position.epoch, end
        )
        batch.failures.extend(failures)
        with report.clock.step():
            sums = torch.tensor([BATCH * float(step if loss is None else loss), BATCH, 1.0])
        report.step(batch, sums.double(), 0.0, 0.1)
        place.advance(batch.epoch, end)
        if place.position.offset == 0:
            rows += report.settle()
        elif report.is_due():
            rows += report.flush()
    return rows


@pytest.mark.parametrize("lags", [False, True])
def test_every_step_is_told_once_and_in_order(tmp_path, lags):
    report, group, place = report_in(tmp_path, lags=lags)
    rows = take_steps(report, place, 27)
    assert len(rows) == (20 if lags else 24)
    rows += report.settle()
    assert [row["step"] for row in rows] == list(range(1, 28))
    assert [row["loss"] for row in rows] == list(range(1, 28))
    assert [event.step for event in group.events] == sorted(event.step for event in group.events)
    assert {(event.step, event.loss) for event in group.events} == {
        (event.step, float(event.step)) for event in group.events
    }
    last = group.events[-1]
    assert (last.step, last.epoch, last.step_in_epoch, last.steps_per_epoch) == (27, 2, 7, 10)
    assert report.settle() == []


@pytest.mark.parametrize("lags", [False, True])
def test_the_first_step_has_a_line_of_its_own_and_then_every_so_many(tmp_path, lags):
    report, group, place = report_in(tmp_path, lags=lags)
    take_steps(report, place, 9)
    report.settle()
    assert group.events[0].step == 1
    assert [event.step for event in group.events][-3:] == [4, 8, 9]


def test_steps_tell_how_many_videos_of_the_epoch_could_not_be_read(tmp_path):
    report, group, place = report_in(tmp_path, lags=False)
    take_steps(report, place, 2)
    take_steps(report, place, 1, failures=[{"path": "a.mp4", "reason": "missing", "detail": ""}])
    take_steps(report, place, 7)
    report.take_failures()  # as at the end of the epoch
    take_steps(report, place, 4)
    told = {event.step: event.unreadable for event in group.events}
    assert [told[step] for step in (1, 4, 8, 10, 12)] == [0, 1, 1, 1, 0]


def test_slow_steps_are_told_by_time(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(reporting.time, "perf_counter", lambda: now[0])
    report, group, place = report_in(tmp_path, lags=False, log_every_steps=100)
    for _ in range(9):
        now[0] += 5.0
        take_steps(report, place, 1)
    assert reporting.SHOWN_EVERY_S == 15.0
    assert [event.step for event in group.events] == [1, 4, 7]


@pytest.mark.parametrize("lags", [False, True])
def test_a_loss_that_is_not_finite_ends_the_run_before_a_checkpoint(tmp_path, lags):
    report, _, place = report_in(tmp_path, lags=lags)
    take_steps(report, place, 5)
    with pytest.raises(StopRun, match="the loss of step 6 is not finite"):  # noqa: PT012
        take_steps(report, place, 1, loss=float("nan"))
        report.settle()

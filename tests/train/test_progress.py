"""Who is named when a rank falls silent, is stuck, or is slow; and what the record keeps."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from stm.spool import series
from stm.tracking import Tracker
from stm.train.events import Kept
from stm.train.progress import RankWatch, board, slow_rank
from stm.train.recorder import Recorder


def pulse(rank, step=5, doing="computing", for_s=1.0):
    return {
        "rank": rank,
        "pid": 100 + rank,
        "node": "10.0.0.1",
        "step": step,
        "doing": doing,
        "for_s": for_s,
    }


def test_a_rank_that_falls_silent_is_named_with_its_process_and_step():
    watch = RankWatch(silent_s=30)
    watch.see([pulse(0), pulse(1)], now=0.0)
    watch.see([pulse(0)], now=40.0)
    (said,) = watch.check(now=40.0)
    assert said.startswith("rank 1 (process 101 on 10.0.0.1) has been silent for 40 s")
    assert "step 5" in said


def test_a_silence_is_told_again_when_it_has_doubled():
    watch = RankWatch(silent_s=30)
    watch.see([pulse(0)], now=0.0)
    told = [bool(watch.check(now=float(t))) for t in (20, 31, 40, 61, 70, 63, 130)]
    assert told == [False, True, False, False, True, False, False]
    assert watch.check(now=140.0)


def test_a_rank_that_is_stuck_in_a_step_is_named_and_those_that_wait_for_it_are_not():
    watch = RankWatch(stuck_s=120)
    watch.see([pulse(0, step=6, for_s=130), pulse(1, step=5, for_s=131)], now=0.0)
    (said,) = watch.check(now=0.0)
    assert "rank 1" in said
    assert "computing for 131 s, step 5" in said


def test_workers_that_were_started_anew_are_not_blamed_for_the_old_ones():
    watch = RankWatch(silent_s=30)
    watch.see([pulse(0), pulse(1)], now=0.0)
    watch.forget(until_start=True)  # they failed
    watch.see([pulse(1)], now=50.0)  # a last word of the old ones
    assert watch.check(now=100.0) == []
    watch.forget()
    watch.see([pulse(0)], now=100.0)
    assert watch.check(now=101.0) == []
    assert watch.check(now=200.0)


def test_a_rank_that_waits_for_its_clips_is_named():
    said = slow_rank([0.1, 0.2, 6.0, 0.1], [5, 5, 0, 5], 10.0)
    assert said == "rank 2 waits for its clips 60% of the time, the others 2% at most"


def test_a_rank_that_computes_slowly_is_the_one_nobody_waits_with():
    assert "rank 1 is slow" in slow_rank([0, 0, 0], [4.0, 0.1, 5.0], 10.0)


def test_ranks_that_are_alike_are_not_blamed():
    assert slow_rank([3.0, 3.1], [0.1, 0.2], 10.0) is None
    assert slow_rank([5.0], [0.0], 10.0) is None


def test_a_short_wait_is_nobodys_fault():
    assert slow_rank([2.0, 0.0], [0.0, 0.0], 3.0) is None


def rows(*steps):
    return [{"time": 1.0, "step": s, "loss": s / 10, "top1": 0.0, "lr": 0.1} for s in steps]


def test_a_step_is_recorded_once_whatever_is_told_again(tmp_path):
    tracker = Tracker("sqlite:///unused.db", None, tmp_path / "tracking.jsonl")
    recorder = Recorder(tracker, "first")
    recorder.history(rows(1, 2, 3))
    recorder.history(rows(2, 3, 4))
    Recorder(tracker, "first").history(rows(3, 4, 5))  # the driver was started anew
    lines = tracker.spool.read_text().splitlines()
    assert len(lines) == 5
    assert series(tracker.spool, "train/loss") == {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4, 5: 0.5}


def test_steps_that_were_told_too_late_are_recorded_all_the_same(tmp_path):
    tracker = Tracker("sqlite:///unused.db", None, tmp_path / "tracking.jsonl")
    Recorder(tracker, "first").history(rows(1, 2, 6))
    Recorder(tracker, "first").history(rows(1, 2, 3, 4, 5, 6))
    assert sorted(series(tracker.spool, "train/loss")) == [1, 2, 3, 4, 5, 6]
    assert len(tracker.spool.read_text().splitlines()) == 6


def test_an_epochs_figures_are_recorded_once(tmp_path):
    tracker = Tracker("sqlite:///unused.db", None, tmp_path / "tracking.jsonl")
    ends = [{"time": 1.0, "step": 6, "epoch": {"epoch": 1, "val_top1": 0.5}}]
    Recorder(tracker, "first").history(rows(6) + ends)
    Recorder(tracker, "first").history(rows(6) + ends)
    assert series(tracker.spool, "val_top1") == {6: 0.5}
    assert len(tracker.spool.read_text().splitlines()) == 2


def test_a_record_cut_short_by_a_full_disk_hides_no_other(tmp_path):
    tracker = Tracker("sqlite:///unused.db", None, tmp_path / "tracking.jsonl")
    tracker.metrics({"train/loss": 1.0}, 1)
    with tracker.spool.open("a") as file:
        file.write('{"kind": "metr')
    tracker.metrics({"train/loss": 2.0}, 2)
    assert series(tracker.spool, "train/loss") == {1: 1.0, 2: 2.0}


@pytest.mark.ray
def test_the_process_that_passes_progress_on_is_made_anew_and_that_is_said(ray_cluster, caplog):
    import ray

    caught_up, arrived, heard = threading.Event(), threading.Event(), []

    def handle(event):
        heard.append(event.step)
        if event.step == 2:
            raise OSError("no room")  # of whoever listens: what follows is heard all the same
        arrived.set()

    def post(actor, step):
        arrived.clear()
        ray.get(actor.post.remote(Kept(path="", step=step, history=[])))

    with board(handle, catch_up=caught_up.set) as actor:
        post(actor, 1)
        assert arrived.wait(60)
        os.kill(ray.get(actor.__ray_call__.remote(lambda self: os.getpid())), signal.SIGKILL)
        post(actor, 2)
        post(actor, 3)
        assert arrived.wait(60)
        assert caught_up.is_set()
    assert heard == [1, 2, 3]
    assert caplog.text.count("died and was started again") == 1
    assert "progress could not be handled: OSError: no room" in caplog.text

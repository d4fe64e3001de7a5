"""Reading a run's record: repeated steps, pauses, cut lines, and runs without a record."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stm.checkpoint.format import Meta
from stm.data.stream.plan import Position
from stm.report.record import read_record


def write_spool(folder, records):
    text = "\n".join(json.dumps({"kind": "metrics", **record}) for record in records)
    (folder / "tracking.jsonl").write_text(text + '\n{"kind": "metr')  # cut short by a full disk


def speed(minute, clips, group="train_speed"):
    values = {f"{group}/clips_per_s": clips, f"{group}/data_wait_share": 0.1}
    return {"step": int(minute), "time_ms": int(minute * 60_000), "values": values}


def test_a_step_that_was_repeated_counts_once_and_what_is_not_finite_is_left_out(tmp_path):
    losses = [(1, 3.0), (2, 2.0), (2, 1.5), (3, float("nan"))]
    write_spool(
        tmp_path, [{"step": s, "time_ms": 0, "values": {"train/loss": y}} for s, y in losses]
    )
    loss = read_record(tmp_path, "nowhere").curves["train/loss"]
    assert (loss.x.tolist(), loss.y.tolist()) == ([1, 2], [3.0, 1.5])


@pytest.mark.parametrize("group", ["train_speed", "speed"], ids=["now", "of earlier versions"])
def test_a_pause_takes_no_place_on_the_time_axis_and_is_marked(tmp_path, group):
    write_spool(tmp_path, [speed(minute, 40, group) for minute in (0, 1, 2, 600, 601)])
    record = read_record(tmp_path, "nowhere")
    assert record.speed["clips_per_s"].x.tolist() == [0, 1, 2, 3, 4]
    assert record.restarts == [3]


def test_a_run_without_a_record_shows_what_its_checkpoint_remembers(tmp_path):
    row = {"time": 0.0, "step": 7, "loss": 1.0, "top1": 0.5, "lr": 0.1}
    epoch = {"time": 0.0, "step": 7, "epoch": {"val_top1": 0.6, "unreadable": 0}}
    (tmp_path / "history.json").write_text(json.dumps([row, epoch]))
    meta = Meta(config={}, classes=[], position=Position(), step=7, fingerprint="")
    (tmp_path / "meta.json").write_text(meta.to_json())
    record = read_record(tmp_path / "no such folder", str(tmp_path))
    assert not record.complete
    assert record.curves["val_top1"].y.tolist() == [0.6]
    assert np.array_equal(record.curves["train/loss"].x, [7])


def test_nothing_at_all_is_an_empty_record(tmp_path):
    record = read_record(tmp_path, str(tmp_path / "nothing"))
    assert (record.curves, record.speed, record.complete) == ({}, {}, False)

"""Files of one record a line, some of which were cut short; and lines of progress, which tell the time left."""

from __future__ import annotations

import numpy as np

from stm import spool, ticker
from stm.figures import smoothed
from tests.logged import logged


def test_lines_that_were_cut_short_are_passed_over(tmp_path):
    path = tmp_path / spool.NAME
    assert spool.read(path) == []
    spool.append(path, {"kind": "metrics", "step": 1, "values": {"a": 1.0}})
    with path.open("ab") as file:
        file.write(b'{"kind": "metrics", "step": 2, "val')
    spool.append(path, {"kind": "tags", "values": {"a": "text"}})
    with path.open("ab") as file:
        file.write(b"17\n\xff\n")
    spool.append(path, {"kind": "metrics", "step": 3, "values": {"a": 3.0, "b": 0.0}})
    assert [record["kind"] for record in spool.read(path)] == ["metrics", "tags", "metrics"]
    assert spool.series(path, "a") == {1: 1.0, 3: 3.0}
    assert spool.series(path, "b") == {3: 0.0}


def test_a_step_that_was_repeated_counts_once_with_its_last_value(tmp_path):
    for value in (1.0, 2.0):
        spool.append(tmp_path / "a", {"kind": "metrics", "step": 5, "values": {"loss": value}})
    assert spool.series(tmp_path / "a", "loss") == {5: 2.0}


def test_progress_is_told_every_five_seconds_and_later_less_often(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(ticker.time, "monotonic", lambda: now[0])
    tick = ticker.Ticker("videos")
    with logged() as said:
        for second in range(1, 7):
            now[0] = 100.0 + second
            tick(2 * second, 1000)
        assert said == ["  10 of 1000 videos, 2 a second, 495 s left"]
        now[0] = 100.0 + 36_000
        tick(500, 1000)
        for _ in range(600):
            now[0] += 1
            tick(500, 1000)
        assert len(said) == 2, "after ten hours, twelve minutes lie between two lines"
        now[0] += 150
        tick(501, 1000)
        assert len(said) == 3


def test_a_smoothed_curve_is_as_long_as_the_curve_and_keeps_its_level():
    for length in (1, 2, 9, 400):
        assert np.allclose(smoothed(np.full(length, 3.0)), np.full(length, 3.0))
    spike = smoothed([0.0] * 10 + [1.0] + [0.0] * 10)
    assert np.allclose(spike[8:13], 0.2)
    assert spike[7] == spike[13] == 0

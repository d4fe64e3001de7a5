"""Files that a verb writes take the place of older ones whole, so that a kill in between tears none."""

from __future__ import annotations

import os

import numpy as np
import pytest

from stm import figures
from stm.errors import UserError
from stm.evaluate.fusing import ScoreFile
from stm.report import tables
from stm.tune import results


def a_figure(path):
    figures.save(figures.new_figure(1, 1)[0], path)


def scores(path):
    ScoreFile(["a"], np.zeros(1), np.ones(1, bool), np.zeros((1, 2)), ["x", "y"]).write(path)


def a_table(path):
    results.write_parquet(path, [results.TrialRecord("one", {"optim.lr": 0.1})])


def a_list(path):
    tables._csv(path, ["class"], [["x"]])


def an_object(path):
    tables._json(path, {"class": "x"})


@pytest.mark.parametrize("write", [a_figure, scores, a_table, a_list, an_object])
def test_what_is_written_anew_does_not_touch_the_file_that_was_there(tmp_path, write):
    path, before = tmp_path / "file.png", tmp_path / "before"
    path.write_bytes(b"the older result")
    os.link(path, before)
    write(path)
    assert before.read_bytes() == b"the older result"
    assert path.read_bytes() != b"the older result"
    assert {file.name for file in tmp_path.iterdir()} == {"file.png", "before"}


def test_a_sweep_whose_state_was_cut_short_is_told_by_its_file(tmp_path):
    path = tmp_path / "sweep.json"
    assert not results.check_state(path, {"name": "a"}, "a")
    assert results.check_state(path, {"name": "a"}, "a")
    path.write_text(path.read_text()[:5])
    with pytest.raises(UserError, match=r"sweep\.json is damaged .*: remove it"):
        results.check_state(path, {"name": "a"}, "a")
    path.unlink()
    assert not results.check_state(path, {"name": "a"}, "a")

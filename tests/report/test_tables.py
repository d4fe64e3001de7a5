"""Tables for other programs: they hold the figures of the evaluation, whatever the classes are called."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from stm.report.intervals import wilson
from stm.report.tables import write_tables
from stm.scoring.metrics import measure

CLASSES = ['one, "two"', "two\nlines", "ünï", "absent"]
LABELS = np.array([0, 0, 0, 1, 2, 2])
READABLE = np.array([True, True, True, True, True, False])
SCORES = np.array(
    [
        [0.7, 0.1, 0.1, 0.1],
        [0.2, 0.6, 0.1, 0.1],
        [0.8, 0.1, 0.1, 0.0],
        [0.1, 0.7, 0.1, 0.1],
        [0.1, 0.2, 0.3, 0.4],
        [0, 0, 0, 0],
    ]
)


def written(folder):
    metrics = measure(SCORES, LABELS, READABLE)
    ids = [f"video {i}" for i in range(5)] + ["=1+1"]
    files = write_tables(folder, CLASSES, metrics, ids, LABELS, READABLE, SCORES)
    assert len(files) == len(list(folder.iterdir())) == 5
    return files


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_row_a_class_with_its_interval_and_what_it_is_taken_for(tmp_path):
    files = written(tmp_path)
    said = json.loads(Path(files["classes_json"]).read_text("utf-8"))
    first, _, third, absent = said
    assert first == {
        "class": CLASSES[0], "num_videos": 3, "right": 2, "unreadable": 0, "top1": 2 / 3, "low": wilson(2, 3).low,
        "high": wilson(2, 3).high, "taken_for": CLASSES[1], "taken_for_videos": 1,
    }  # fmt: skip
    assert (third["num_videos"], third["right"], third["unreadable"], third["top1"]) == (2, 0, 1, 0)
    assert [absent[k] for k in ("num_videos", "top1", "low", "taken_for")] == [0, None, None, None]
    for of_csv, of_json in zip(rows(files["classes_csv"]), said, strict=True):
        assert of_csv == {k: "" if v is None else str(v) for k, v in of_json.items()}


def test_the_matrix_counts_every_video_and_the_unreadable_beside_it(tmp_path):
    files = written(tmp_path)
    said = json.loads(Path(files["confusion_json"]).read_text("utf-8"))
    assert said["classes"] == CLASSES
    assert said["counts"][0] == [2, 1, 0, 0]
    assert sum(map(sum, said["counts"])) + sum(said["unreadable"]) == len(LABELS)
    table = rows(files["confusion_csv"])
    assert [row["true class"] for row in table] == CLASSES
    counted = {**dict.fromkeys(CLASSES, "0"), "absent": "1", "(unreadable)": "1"}
    assert table[2] == {"true class": "ünï", **counted}


def test_a_row_a_video_with_its_five_best_answers(tmp_path):
    table = rows(written(tmp_path)["answers_csv"])
    assert [row["video_id"] for row in table] == [*(f"video {i}" for i in range(5)), "=1+1"]
    of = [table[1][k] for k in ("class", "answer_1", "score_1", "is_right", "rank", "answer_4")]
    assert of == [CLASSES[0], CLASSES[1], "0.600000", "false", "2", "absent"]
    assert (table[4]["rank"], table[4]["readable"]) == ("2", "true")
    assert "answer_5" not in table[0]
    unread = table[5]
    assert [unread[k] for k in ("readable", "is_right", "rank", "answer_1")] == [
        "false",
        "false",
        "",
        "",
    ]

"""Fusing the scores of several evaluations."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipelines import cli
from stm.errors import UserError
from stm.evaluate.fusing import ScoreFile, fuse

CLASSES = ["a", "b", "c"]


def score_file(path, scores, readable=(True, True, True), ids=("x", "y", "z"), labels=(0, 1, 2)):
    ScoreFile(
        list(ids), np.array(labels), np.array(readable), np.array(scores, np.float32), CLASSES
    ).write(path)
    return str(path)


@pytest.fixture
def pair(tmp_path):
    """Each is right about two of three; together they are right about all."""
    first = score_file(tmp_path / "1.parquet", [[0.9, 0.1, 0], [0.1, 0.8, 0.1], [0.5, 0.1, 0.4]])
    second = score_file(
        tmp_path / "2.parquet",
        [[0.0, 0.1, 0.9], [0.4, 0.5, 0.1], [0.3, 0.6, 0.1]],
        ids=("z", "x", "y"),
        labels=(2, 0, 1),
    )
    return [first, second]


def test_scores_are_averaged_by_video_whatever_the_order_of_files(pair):
    fused, metrics = fuse(pair)
    np.testing.assert_allclose(fused.scores_NK[2], [0.25, 0.1, 0.65], atol=1e-6)
    assert (metrics.top1, metrics.num_videos) == (1.0, 3)


def test_shares_are_relative(pair):
    fused, _ = fuse(pair, [3, 1])
    np.testing.assert_allclose(fused.scores_NK[2], [0.375, 0.1, 0.525], atol=1e-6)


def test_a_video_that_one_of_them_could_not_read_has_the_others_scores(tmp_path, pair):
    blind = score_file(
        tmp_path / "3.parquet", [[0, 0, 0], [0.1, 0.8, 0.1], [0, 0, 0]], (False, True, False)
    )
    fused, metrics = fuse([pair[0], blind])
    np.testing.assert_allclose(fused.scores_NK[0], [0.9, 0.1, 0], atol=1e-6)
    assert metrics.unreadable == 0


def test_what_none_could_read_is_wrong_and_counted(tmp_path):
    files = [
        score_file(tmp_path / f"{i}.parquet", np.zeros((3, 3)), (False, True, True)) for i in "ab"
    ]
    _, metrics = fuse(files)
    assert (metrics.num_videos, metrics.unreadable, metrics.top1) == (3, 1, 0.0)


def test_the_command_prints_the_fused_result(pair, tmp_path, capfd):
    assert cli.main(["evaluate", "--fuse", *pair, "--output", str(tmp_path / "out"), "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["top1"] == 1.0
    assert ScoreFile.read(result["files"]["scores"]).classes == CLASSES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": ("x", "y", "w")}, "not of the same videos"),
        ({"labels": (0, 2, 2)}, "different labels"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(tmp_path, pair, change, message):
    other = score_file(tmp_path / "other.parquet", np.zeros((3, 3)), **change)
    with pytest.raises(UserError, match=message):
        fuse([pair[0], other])


def test_classes_of_another_order_are_matched_by_name(tmp_path, pair):
    order = [2, 0, 1]
    second = ScoreFile.read(pair[1])
    ScoreFile(
        second.video_ids,
        np.array([order.index(label) for label in second.labels_N]),
        second.readable_N,
        second.scores_NK[:, order],
        ["C", "a", "b"],
    ).write(tmp_path / "2b.parquet")
    fused, _ = fuse(pair)
    again, metrics = fuse([pair[0], str(tmp_path / "2b.parquet")])
    np.testing.assert_array_equal(again.scores_NK, fused.scores_NK)
    assert (metrics.top1, again.classes) == (1.0, CLASSES)
    ScoreFile(
        second.video_ids, second.labels_N, second.readable_N, second.scores_NK, ["a", "b", "d"]
    ).write(tmp_path / "other.parquet")
    with pytest.raises(UserError, match=r"other classes than .*: 'd', 'c' in one of them alone"):
        fuse([pair[0], str(tmp_path / "other.parquet")])


def test_a_file_that_holds_no_scores_is_refused(tmp_path, pair, capfd):
    (tmp_path / "text.parquet").write_text("hello")
    for name in ("text.parquet", "missing.parquet"):
        assert cli.main(["evaluate", "--fuse", pair[0], str(tmp_path / name)]) == 2
        assert name in capfd.readouterr().err

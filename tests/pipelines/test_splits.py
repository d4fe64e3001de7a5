"""`stm splits`: one run a split, the end of each schedule measured, and their plain mean."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines import cli, splits
from stm.config import Config, TrainConfig
from stm.data.manifest import SCHEMA, Manifest
from stm.errors import UserError


def stm(capfd, *arguments):
    """(exit status, stdout, stderr) of a command run in this process."""
    try:
        status = cli.main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        status = exit_.code
    out, err = capfd.readouterr()
    return status, out, err


def write_manifest(path: Path, videos: list[str], classes: tuple[str, ...] = ("a", "b")) -> None:
    """A manifest of videos that nothing opens."""
    columns: dict[str, list] = {
        "video_id": videos,
        "path": [f"/videos/{video}.avi" for video in videos],
        "label": [number % len(classes) for number in range(len(videos))],
        "status": ["ok"] * len(videos),
    }
    arrays = []
    for field in SCHEMA:
        empty = "" if pa.types.is_string(field.type) else 8
        arrays.append(pa.array(columns.get(field.name, [empty] * len(videos)), field.type))
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_arrays(arrays, schema=SCHEMA)
    Manifest(table=table, classes=classes, dataset="ucf101", flip=True, flip_map=None).write(path)


@pytest.fixture
def manifests(tmp_path):
    """Three splits of six videos: split N holds out videos N and N + 3."""
    for number in (1, 2, 3):
        held_out = [f"v{number}", f"v{number + 3}"]
        kept = [f"v{n}" for n in range(1, 7) if f"v{n}" not in held_out]
        write_manifest(tmp_path / f"split{number}" / "train.parquet", kept)
        write_manifest(tmp_path / f"split{number}" / "val.parquet", held_out)
    return tmp_path


@pytest.fixture
def jobs(monkeypatch):
    """What training and evaluation were asked for; they answer at once, with another top-1 for each split."""
    asked: dict[str, list] = {"train": [], "evaluate": []}

    def train(config, *, address=None):
        asked["train"].append(config)
        run = f"runs/{config.train.name}"
        return {
            "run": config.train.name,
            "checkpoint": f"{run}/best",
            "last_checkpoint": f"{run}/last",
        }

    def evaluate(checkpoint, manifest_path, **options):
        asked["evaluate"].append((checkpoint, manifest_path, options))
        number = len(asked["evaluate"])
        return {
            "top1": number / 10,
            "top5": 0.5 + number / 10,
            "mean_class_accuracy": number / 20,
            "num_videos": 1000 * number,
            "unreadable": int(number == 2),
        }

    monkeypatch.setattr("stm.train.trainer.train", train)
    monkeypatch.setattr("stm.evaluate.evaluate.evaluate", evaluate)
    return asked


def test_each_split_is_a_run_of_its_own_under_one_config(manifests, jobs, capfd):
    status, _, err = stm(
        capfd, "splits", "--config", "ucf101-t16", "--manifests", manifests, "--workers", "2"
    )
    assert status == 0, err
    configs = jobs["train"]
    assert [config.train.name for config in configs] == [
        f"ucf101-t16-split{number}" for number in (1, 2, 3)
    ]
    assert [config.data.val for config in configs] == [
        str(manifests / f"split{number}" / "val.parquet") for number in (1, 2, 3)
    ]
    assert len({config.data.train for config in configs}) == 3
    same = [replace(config, data=configs[0].data, train=configs[0].train) for config in configs]
    assert same == [configs[0]] * 3
    assert configs[0].model.dropout == 0.8
    assert configs[0].train.num_workers == 2


def test_the_end_of_the_schedule_is_measured_on_the_splits_own_test_videos(manifests, jobs, capfd):
    status, _, err = stm(
        capfd, "splits", "--config", "ucf101-t16", "--manifests", manifests, "--output", "report"
    )
    assert status == 0, err
    for number, (checkpoint, manifest, options) in enumerate(jobs["evaluate"], 1):
        assert checkpoint == f"runs/ucf101-t16-split{number}/last"
        assert manifest == str(manifests / f"split{number}" / "val.parquet")
        assert options["protocol"] == "accurate"
        assert options["output"] == f"report/split{number}"
        assert options["num_workers"] == 8


def test_the_mean_counts_each_split_once_and_json_is_one_object(manifests, jobs, capfd):
    status, out, _ = stm(
        capfd, "splits", "--config", "hmdb51-t16", "--manifests", manifests, "--json"
    )
    assert status == 0
    result = json.loads(out)
    assert [each["top1"] for each in result["splits"]] == [0.1, 0.2, 0.3]
    assert result["mean"] == {
        "top1": pytest.approx(0.2),  # not weighted by the 1000, 2000 and 3000 videos
        "top5": pytest.approx(0.7),
        "mean_class_accuracy": pytest.approx(0.1),
    }
    assert (result["name"], result["protocol"]) == ("hmdb51-t16", "accurate")
    assert result["splits"][1]["unreadable"] == 1


def test_the_table_shows_every_split_the_mean_and_what_could_not_be_read(manifests, jobs, capfd):
    _, out, _ = stm(capfd, "splits", "--config", "ucf101-t16", "--manifests", manifests)
    lines = [line.split() for line in out.splitlines()]
    assert lines[2] == ["1", "10.00%", "60.00%", "5.00%", "1000"]
    assert lines[3][:5] == ["2", "20.00%", "70.00%", "10.00%", "2000,"]
    assert "of which 1 unreadable and counted as wrong" in out.splitlines()[3]
    assert lines[-1] == ["mean", "20.00%", "70.00%", "10.00%"]


def test_some_splits_can_be_chosen(manifests, jobs, capfd):
    status, _, err = stm(
        capfd, "splits", "--config", "ucf101-t16", "--manifests", manifests, "--splits", "[3, 1]"
    )
    assert status == 0, err
    assert [config.train.name[-1] for config in jobs["train"]] == ["3", "1"]


def refused(capfd, jobs, *arguments) -> str:
    """The message of a command that must end before any training."""
    status, out, err = stm(capfd, "splits", *arguments)
    assert (status, out, jobs["train"]) == (2, "", [])
    assert "Traceback" not in err
    return err


def test_a_missing_manifest_is_told_before_anything_is_trained(manifests, jobs, capfd):
    (manifests / "split3" / "val.parquet").unlink()
    err = refused(capfd, jobs, "--config", "ucf101-t16", "--manifests", manifests)
    assert "split3/val.parquet" in err
    assert "stm index --split 3" in err


def test_one_split_under_two_numbers_is_refused(manifests, jobs, capfd):
    copy = (manifests / "split1" / "train.parquet").read_bytes()
    (manifests / "split2" / "train.parquet").write_bytes(copy)
    err = refused(capfd, jobs, "--config", "ucf101-t16", "--manifests", manifests)
    assert "lists the same videos as" in err
    assert "split2/train.parquet" in err


def test_splits_of_other_classes_are_refused(manifests, jobs, capfd):
    write_manifest(manifests / "split2" / "val.parquet", ["v2", "v5"], classes=("a", "c"))
    err = refused(capfd, jobs, "--config", "ucf101-t16", "--manifests", manifests)
    assert "split2/val.parquet has videos of 1 class that" in err
    assert "does not have: 'c'" in err


def test_splits_whose_classes_have_another_order_or_lack_one_are_the_same_classes(
    manifests, jobs, capfd
):
    kept = Manifest.read(manifests / "split2" / "train.parquet").table["video_id"].to_pylist()
    write_manifest(manifests / "split2" / "train.parquet", kept, classes=("b", "a"))
    write_manifest(manifests / "split3" / "val.parquet", ["v3", "v6"], classes=("b",))
    command = ["splits", "--config", "ucf101-t16", "--manifests", manifests, "--train.name", "u"]
    status, _, err = stm(capfd, *command)
    assert status == 0, err
    write_manifest(manifests / "split2" / "train.parquet", kept, classes=("b",))
    status, _, err = stm(capfd, *command)
    assert status == 2
    assert "does not have: 'a'" in err


@pytest.mark.parametrize("given", ["[]", "[1, 1]"])
def test_splits_that_would_not_count_once_are_refused(given, manifests, jobs, capfd):
    err = refused(
        capfd, jobs, "--config", "ucf101-t16", "--manifests", manifests, "--splits", given
    )
    assert "must name at least one split" in err


def test_without_a_name_the_runs_could_not_continue(manifests, jobs, capfd):
    assert "--train.name is not set" in refused(capfd, jobs, "--manifests", manifests)


def test_the_config_of_a_split_keeps_all_but_manifests_and_name():
    config = Config(train=TrainConfig(name="x", seed=3))
    split = splits.Split(2, "t.parquet", "v.parquet")
    changed = splits.config_of_split(config, split)
    assert (changed.train.name, changed.train.seed) == ("x-split2", 3)
    assert (changed.data.train, changed.data.val) == ("t.parquet", "v.parquet")
    with pytest.raises(UserError, match=r"there is no nowhere/split1/train\.parquet"):
        splits.find_splits("nowhere", [1])


@pytest.mark.ray
@pytest.mark.slow
def test_two_splits_train_measure_and_continue_by_name(ray_cluster, tmp_path, monkeypatch, capfd):
    """The real thing, small: nothing stands in for training or evaluation here."""
    from stm.data.annotations import read_annotations
    from stm.data.index.indexing import index_videos
    from stm.data.synthetic import write_videos

    monkeypatch.chdir(tmp_path)
    annotations = write_videos(tmp_path, num_train=16, num_test=8, size=48, num_frames=12)
    indexed, _ = index_videos(read_annotations("csv", tmp_path, annotations), cross_check=0)
    pool = indexed["train"]
    for number in (1, 2):
        held_out = [row for row in range(16) if row % 4 == number]
        kept = [row for row in range(16) if row % 4 != number]
        folder = tmp_path / "m" / f"split{number}"
        folder.mkdir(parents=True)
        replace(pool, table=pool.table.take(kept)).write(folder / "train.parquet")
        replace(pool, table=pool.table.take(held_out)).write(folder / "val.parquet")
    command = [
        "splits", "--manifests", "m", "--splits", "[1, 2]", "--protocol", "efficient", "--json",
        "--train.name", "tiny", "--model.depth", "26", "--model.width", "16", "--data.num_segments", "4",
        "--data.size", "32", "--optim.batch_size", "4", "--optim.epochs", "1", "--tracking.uri", "none",
        "--train.cpus_per_worker", "0.5", "--train.threads_per_worker", "1",
    ]  # fmt: skip
    status, out, err = stm(capfd, *command)
    assert status == 0, err
    first = json.loads(out)
    assert [each["run"] for each in first["splits"]] == ["tiny-split1", "tiny-split2"]
    assert [each["num_videos"] for each in first["splits"]] == [4, 4]
    assert first["mean"]["top1"] == sum(each["top1"] for each in first["splits"]) / 2

    status, out, err = stm(capfd, *command)
    assert status == 0, err
    assert json.loads(out) == first
    assert "epoch 1/1 done" not in err  # trained already: only measured

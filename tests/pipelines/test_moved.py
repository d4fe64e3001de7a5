"""A data set that moves: indexed, moved, and used from where it lies now, through the verbs themselves."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines import cli
from stm.data.manifest import Manifest
from tests.logged import logged
from tests.videos import write_frame_folder, write_video

pytestmark = pytest.mark.ray

TINY = [
    *("--model.depth", "26", "--model.width", "16", "--data.num_segments", "4", "--data.size", "32"),
    *("--optim.batch_size", "2", "--optim.epochs", "1", "--optim.milestones", "[]"),
    *("--train.cpus_per_worker", "0.5", "--tracking.uri", "none", "--data.clips_per_task", "4"),
]  # fmt: skip


def make_data_set(root: Path) -> Path:
    """Two classes of mp4 and frame folders, in train and val."""
    for split, count in (("train", 2), ("val", 1)):
        for name in ("jump", "run"):
            (root / split / name).mkdir(parents=True)
            write_frame_folder(root / split / name / "frames", num_frames=6)
            for k in range(count):
                write_video(root / split / name / f"{k}.mp4", num_frames=8, width=64, height=48)
    return root


def stm(capfd: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any], str]:
    """(exit status, the result, stderr) of a verb run in this process."""
    status = cli.main([*map(str, words), "--json"])
    out, err = capfd.readouterr()
    return status, json.loads(out) if out.strip() else {}, err


@pytest.mark.slow
def test_a_data_set_that_has_moved_is_used_and_indexed_from_its_new_root(
    ray_cluster: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    old, new = make_data_set(tmp_path / "here" / "set"), tmp_path / "there" / "renamed"
    index = ["index", "--format", "folder", "--output", tmp_path / "m", "--cross-check", 0]
    status, indexed, err = stm(capfd, *index, "--root", old)
    assert status == 0, err
    new.parent.mkdir()
    shutil.move(old, new)
    train, val = (indexed["manifests"][name] for name in ("train", "val"))

    run = ["train", *TINY, "--train.storage", tmp_path / "runs"]
    run += ["--data.train", train, "--data.val", val]
    status, trained, err = stm(capfd, *run, "--train.name", "first", "--data.root", new)
    assert status == 0, err
    assert trained["val_num_videos"] == 4
    evaluate = ["evaluate", "--checkpoint", trained["last_checkpoint"], "--manifest", val]
    status, measured, err = stm(capfd, *evaluate, "--data.root", new, "--report", "false")
    assert status == 0, err
    assert (measured["num_videos"], measured["unreadable"]) == (4, 0)
    status, _, err = stm(capfd, *evaluate, "--report", "false")
    assert status == 2
    assert "none of its 4 videos is found" in err
    assert "--data.root" in err

    # The same command with the new root probes nothing, and writes manifests of the same fingerprint.
    status, again, err = stm(capfd, *index, "--root", new)
    assert status == 0, err
    assert again["summary"]["num_probed"] == 0
    assert again["fingerprints"] == indexed["fingerprints"]
    assert Manifest.read(train).root == str(new)

    # A frame that is overwritten in place: its folder's own time says nothing.
    folder = new / "train" / "jump" / "frames"
    time = os.stat(folder).st_mtime_ns
    image = folder / "00001.jpg"
    image.write_bytes(
        write_frame_folder(tmp_path / "wide", width=200).joinpath(image.name).read_bytes()
    )
    assert os.stat(folder).st_mtime_ns == time
    status, again, err = stm(capfd, *index, "--root", new)
    assert again["summary"]["num_probed"] == 1
    rows = {row["video_id"]: row for row in Manifest.read(train).table.to_pylist()}
    assert rows["train/jump/frames"]["width"] == 200


@pytest.mark.slow
def test_a_training_without_the_new_root_names_what_is_missing_and_what_to_do(
    ray_cluster: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    old = make_data_set(tmp_path / "set")
    index = ["index", "--format", "folder", "--output", tmp_path / "m", "--cross-check", 0]
    status, indexed, err = stm(capfd, *index, "--root", old)
    assert status == 0, err
    old.rename(tmp_path / "moved")
    run = ["train", *TINY, "--train.storage", tmp_path / "runs", "--train.name", "lost"]
    run += ["--data.train", indexed["manifests"]["train"], "--train.max_failures", 0]
    status, _, err = stm(capfd, *run)
    assert status == 2
    assert f"{old}, which this machine does not have" in err
    assert err.rstrip().endswith("name the folder or URL where they are now with --data.root")


def test_prepared_videos_move_with_their_manifest_and_are_not_made_again(
    ray_cluster: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    old, new = make_data_set(tmp_path / "old"), tmp_path / "new"
    index = ["index", "--format", "folder", "--output", tmp_path / "m", "--cross-check", 0]
    status, indexed, err = stm(capfd, *index, "--root", old)
    assert status == 0, err
    old.rename(new)
    prepare = ["prepare", "--manifest", indexed["manifests"]["train"], "--short-side", 96]
    prepare += ["--min-gain", 0, "--measure", 0, "--output"]
    status, _, err = stm(capfd, *prepare, tmp_path / "p", "--data.root", tmp_path / "wrong")
    assert status == 2
    assert "--data.root" in err
    for layout, named in (("files", ""), ("shards", ".parquet#")):
        output, moved = tmp_path / layout, tmp_path / f"moved-{layout}"
        words = [*prepare, output, "--layout", layout]
        status, made, err = stm(capfd, *words, "--data.root", new)
        assert status == 0, err
        assert made["prepared"] == made["made_now"] == 6, made
        new.rename(tmp_path / "newer")
        status, made, err = stm(capfd, *words, "--data.root", tmp_path / "newer")
        assert (status, made["prepared"], made["made_now"]) == (0, 6, 0), err
        (tmp_path / "newer").rename(new)

        output.rename(moved)
        with logged() as said:
            manifest = Manifest.read(moved / "train.parquet")
        assert manifest.root == str(moved)
        assert f"they are in {moved}" in said[0]
        paths = manifest.table["path"].to_pylist()
        assert all(path.startswith(f"{moved}/") and named in path for path in paths)
        bench = ["bench", "decode", "--manifest", moved / "train.parquet", "--repetitions", 1]
        status, result, err = stm(capfd, *bench, "--data.root", moved, "--size", 32)
        assert status == 0, err
        assert result["num_videos"] == 6

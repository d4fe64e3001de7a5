"""The command line: bad input ends with one message and status 2; results are one JSON object on stdout."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from pipelines import cli
from pipelines.options import Options
from pipelines.words import read
from stm.config import Config, DataConfig, ModelConfig, OptimConfig, TrackingConfig, TrainConfig
from stm.data.manifest import Manifest
from stm.data.synthetic import write_videos
from tests.data.test_manifest import make_manifest

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch",
    "ray",
    "av",
    "mlflow",
    "pandas",
    "sklearn",
    "matplotlib",
    "decord",
    "pyarrow",
    "numpy",
)


def stm(capfd, *arguments):
    """(exit status, stdout, stderr) of a command run in this process."""
    try:
        status = cli.main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        status = exit_.code
    out, err = capfd.readouterr()
    return status, out, err


@pytest.mark.parametrize("verb", [[], *([v] for v in cli.verbs())])
def test_help_imports_nothing_heavy(verb):
    """That is what keeps `stm --help` fast."""
    code = (
        f"import sys; from pipelines.cli import main\n"
        f"try: main({[*verb, '--help']})\nexcept SystemExit: pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stderr.strip().splitlines()[-1] == "[]"
    assert "examples" in done.stdout


def test_an_unknown_verb_is_refused_with_the_nearest_one(capfd):
    assert stm(capfd, "trian")[::2] == (2, "stm: no verb 'trian': did you mean `stm train`?\n")
    assert stm(capfd, "sweep")[2] == "stm: no verb 'sweep': did you mean `stm tune`?\n"
    assert set(cli.OTHER_NAMES.values()) <= set(cli.verbs())
    assert not set(cli.OTHER_NAMES) & set(cli.verbs())


def test_no_verb_shows_the_usage_and_fails(capfd):
    status, out, _ = stm(capfd)
    assert status == 2
    assert "usage: stm VERB" in out


@pytest.fixture
def empty_manifest(tmp_path):
    from stm.data.manifest import SCHEMA

    path = tmp_path / "empty.parquet"
    pq.write_table(SCHEMA.empty_table(), path)
    return path


BAD_INPUT = {
    "a misspelt setting": (["train", "--optim.lrr", "1"], "did you mean --optim.lr"),
    "a setting of the wrong type": (["train", "--optim.lr", "fast"], "optim.lr"),
    "a setting out of range": (["train", "--optim.lr", "-1"], "--optim.lr -1.0: must be above 0"),
    "an unknown variant": (
        ["train", "--model.variant", "i3d", "--data.train", "GOOD"], "allowed: one of cmm, "
    ),
    "a batch that workers cannot share": (
        ["train", "--optim.batch_size", "10", "--workers", "4"], "use a multiple of 4"
    ),
    "no manifest": (["train"], "--data.train is not set"),
    "a manifest that does not exist": (["train", "--data.train", "no.parquet"], "no.parquet"),
    "an empty manifest": (["train", "--data.train", "EMPTY"], "empty.parquet"),
    "a manifest that is text": (["train", "--data.train", "TEXT"], "text.parquet"),
    "a config file that does not exist": (["train", "--config", "no.yaml"], "no.yaml"),
    "a checkpoint that does not exist": (
        ["evaluate", "--checkpoint", "no", "--manifest", "TEXT"], "--checkpoint no: no such directory"
    ),
    "a directory that is no checkpoint": (
        ["evaluate", "--checkpoint", ".", "--manifest", "TEXT"], "neither a checkpoint"
    ),
    "an unknown protocol": (
        ["evaluate", "--checkpoint", ".", "--manifest", "TEXT", "--protocol", "best"], "protocol"
    ),
    "a video that does not exist": (["predict", "--checkpoint", ".", "no.mp4"], "no.mp4: no such file"),
    "a folder without videos": (["predict", "--checkpoint", ".", "NOTHING"], "no video in this folder"),
    "no training videos": (["demo", "--train_videos", "0"], "--train_videos 0: must be at least 1"),
    "an unknown format": (["index", "--format", "avi", "--root", ".", "--output", "o"], "avi"),
    "a root that does not exist": (["index", "--format", "folder", "--root", "no", "--output", "o"], "no"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_INPUT)
def test_bad_input_ends_with_one_message_and_status_2(
    what, capfd, tmp_path, monkeypatch, empty_manifest
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.parquet").write_text("not parquet")
    (tmp_path / "nothing").mkdir()
    make_manifest().write(tmp_path / "good.parquet")
    places = {
        "EMPTY": empty_manifest,
        "GOOD": tmp_path / "good.parquet",
        "TEXT": tmp_path / "text.parquet",
        "NOTHING": tmp_path / "nothing",
    }
    arguments, told = BAD_INPUT[what]
    status, out, err = stm(capfd, *(places.get(argument, argument) for argument in arguments))
    assert status == 2
    assert out == ""
    assert told in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) <= 6, err


def test_a_misspelt_key_in_a_config_file_is_refused_by_name(capfd, tmp_path):
    (tmp_path / "typo.yaml").write_text("optim:\n  learning_rate: 0.1\n")
    status, _, err = stm(capfd, "train", "--config", tmp_path / "typo.yaml")
    assert status == 2
    assert "typo.yaml:2: optim.learning_rate: there is no such setting" in err


def test_printed_config_is_a_config(capfd, tmp_path):
    status, out, _ = stm(capfd, "train", "--optim.lr", "0.5", "--print_config")
    assert status in (0, None)
    assert yaml.safe_load(out)["optim"]["lr"] == 0.5
    (tmp_path / "again.yaml").write_text(out)
    assert stm(capfd, "train", "--config", tmp_path / "again.yaml", "--print_config")[1] == out


@pytest.mark.ray
def test_index_train_evaluate_predict_hand_on_to_each_other(
    ray_cluster, capfd, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_videos(tmp_path, num_train=16, num_test=8, size=48, num_frames=12)
    status, out, err = stm(
        capfd,
        "index",
        "--format",
        "csv",
        "--root",
        ".",
        "--annotations",
        "annotations.csv",
        "--output",
        "m",
        "--json",
    )
    assert status == 0, err
    manifests = json.loads(out)["manifests"]
    config = Config(
        model=ModelConfig(depth=26, width=16),
        data=DataConfig(train=manifests["train"], val=manifests["val"], num_segments=4, size=32),
        optim=OptimConfig(batch_size=8, epochs=1),
        train=TrainConfig(name="first", cpus_per_worker=0.5),
        tracking=TrackingConfig(uri="none"),
    )
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(config.to_dict()))

    status, out, err = stm(capfd, "train", "--config", "recipe.yaml", "--json")
    assert status == 0, err
    trained = json.loads(out)
    assert trained["steps"] == 2
    assert 0 <= trained["val_top1"] <= 1
    assert "epoch 1/1 done" in err

    for protocol in ("efficient", "accurate"):
        status, out, err = stm(
            capfd, "evaluate", "--checkpoint", "runs/first", "--manifest", manifests["val"],
            "--protocol", protocol, "--output", protocol, "--json",
        )  # fmt: skip
        assert status == 0, err
        measured = json.loads(out)
        assert measured["num_videos"] == 8
        assert measured["unreadable"] == 0
        assert pq.read_table(measured["files"]["scores"]).num_rows == 8
        assert Path(measured["files"]["confusion"]).stat().st_size > 5000
        if protocol == "efficient":  # the same videos and views as the validation in training
            assert measured["top1"] == trained["val_top1"]

    (tmp_path / "videos" / "val" / "broken.mp4").write_text("not a video")
    status, out, err = stm(capfd, "predict", "--checkpoint", "runs/first", "videos/val", "--json")
    assert status == 0, err
    here = {video["path"]: video for video in json.loads(out)["videos"]}
    assert "not_a_video" in here["videos/val/broken.mp4"]["error"]
    assert len(here["videos/val/up-0000.mp4"]["top5"]) == 5
    status, out, err = stm(
        capfd,
        "predict",
        "--checkpoint",
        "runs/first",
        "videos/val",
        "--output",
        "p/out.parquet",
        "--json",
    )
    assert status == 0, err
    rows = {row["path"]: row for row in pq.read_table("p/out.parquet").to_pylist()}
    assert rows.keys() == here.keys()
    assert "not_a_video" in rows["videos/val/broken.mp4"]["error"]
    for path, video in here.items():
        if "top5" in video:
            assert rows[path]["classes"] == [answer["class"] for answer in video["top5"]]
            assert rows[path]["scores"] == pytest.approx(
                [answer["score"] for answer in video["top5"]], abs=1e-5
            )

    status, _, err = stm(capfd, "predict", "--checkpoint", "runs/first", "videos/val/broken.mp4")
    assert status == 2
    assert "the video could not be read" in err

    manifest = Manifest.read(manifests["val"])
    replace(manifest, classes=(*manifest.classes[:-1], "jump")).write(tmp_path / "other.parquet")
    status, _, err = stm(
        capfd, "evaluate", "--checkpoint", "runs/first", "--manifest", "other.parquet"
    )
    assert status == 2
    assert "that the network in" in err


def test_parameter_groups_are_given_on_the_command_line(capfd, tmp_path):
    from pipelines import train

    groups = '[{match: "^fc", lr_scale: 5, weight_decay: 0}]'
    call = read(Options.of(train), ["--optim.groups", groups])
    (group,) = call.keywords["config"].optim.groups
    assert (group.match, group.lr_scale, group.weight_decay) == ("^fc", 5.0, 0.0)
    status, _, err = stm(capfd, "train", "--optim.groups", "[{match: fc, scale: 5}]")
    assert status == 2
    assert "scale" in err


@pytest.mark.parametrize(("last", "said"), [(0.589, "last 58.9%"), (None, "last not validated")])
def test_training_ends_with_the_best_and_the_last(last, said):
    from pipelines.train import show

    result = {
        "checkpoint": "runs/a/checkpoint-00000006",
        "last_checkpoint": "runs/a/checkpoint-00000008",
        "val_top1": 0.72,
        "best_epoch": 6.0,
        "val_num_videos": 50.0,
        "last_val_top1": last,
        "test_list": None,
    }
    shown = show(result)
    assert f"best 72.0% (epoch 6), {said}, of 50 videos" in shown
    assert "last checkpoint runs/a/checkpoint-00000008" in shown

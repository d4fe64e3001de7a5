"""Videos in an object store: read, indexed and streamed by their URLs, from a real server that speaks S3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import fsspec.config
import pytest

from stm import patience
from stm.checkpoint import format as checkpoints
from stm.data.decode import VideoError, probe, read_frames
from stm.data.manifest import Manifest
from stm.data.stream.clips import ClipSpec
from stm.data.stream.graph import decode_shares
from stm.data.synthetic import write_videos
from tests.data.test_preparing import manifest_of
from tests.stores import Line, environment_of, s3_server
from tests.test_one_bad_video import plan_row

ROOT = Path(__file__).parents[2]


def fsspec_s3(environment):
    import s3fs

    url = environment["AWS_ENDPOINT_URL"]
    return s3fs.S3FileSystem(key="test", secret="test", endpoint_url=url)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """(environment that reaches it, local copy of what is in s3://clips)."""
    folder = tmp_path_factory.mktemp("store")
    with s3_server(folder) as url:
        write_videos(folder, num_train=8, num_test=8, size=48, num_frames=6)
        remote = fsspec_s3(environment_of(url))
        remote.mkdir("clips")
        remote.put(str(folder / "videos"), "clips/videos", recursive=True)
        yield environment_of(url), folder


TRAIN = [
    "train", "--data.train=s3://clips/m/train.parquet", "--data.val=s3://clips/m/val.parquet",
    "--model.depth=26", "--model.width=16", "--data.size=32", "--data.num_segments=2", "--optim.batch_size=4",
    "--optim.milestones=[]", "--tracking.uri=none", "--train.storage=s3://clips/runs",
]  # fmt: skip


@pytest.fixture
def reachable(store, monkeypatch):
    import fsspec.config
    import s3fs

    for name, value in store[0].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": store[0]["AWS_ENDPOINT_URL"]})
    s3fs.S3FileSystem.clear_instance_cache()
    return store[1]


def test_frames_by_url_are_the_frames_of_the_file(reachable):
    name = "videos/val/left-0000.mp4"
    assert probe(f"s3://clips/{name}") == probe(str(reachable / name))
    remote = read_frames(f"s3://clips/{name}", [0, 3, 5])
    assert (remote == read_frames(str(reachable / name), [0, 3, 5])).all()


def test_what_is_not_in_the_store_is_not_found(reachable):
    with pytest.raises(VideoError) as caught:
        probe("s3://clips/videos/val/nothing.mp4")
    assert caught.value.reason == "not_found"


# Commands one after another on one cluster, which knows the store from its environment.
_IN_ONE_PROCESS = """
import json, os, sys
from pipelines import cli
for cache, command in json.loads(sys.argv[1]):
    os.environ["XDG_CACHE_HOME"] = cache
    if status := cli.main([*command, "--address=local", "--json"]):
        sys.exit(status)
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_dataset_in_a_store_is_indexed_and_trained_on_and_the_run_kept_there(
    store, reachable, tmp_path
):
    environment, folder = store
    listed = (folder / "annotations.csv").read_text() + "videos/train/gone.mp4,left,train\n"
    (tmp_path / "list.csv").write_text(listed)
    index = ["index", "--format=csv", "--root=s3://clips", f"--output={tmp_path}"]
    index += [f"--annotations={tmp_path / 'list.csv'}"]
    train = ["train", f"--data.train={tmp_path / 'train.parquet'}"]
    train += [f"--data.val={tmp_path / 'val.parquet'}", "--model.depth=26", "--model.width=16"]
    train += ["--data.size=32", "--data.num_segments=2", "--optim.batch_size=4"]
    train += ["--optim.milestones=[]", "--tracking.uri=none"]
    train += ["--train.storage=s3://clips/runs", "--train.name=far"]
    # The second training, with another cache: on another machine, as it were, it has the store alone.
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            _IN_ONE_PROCESS,
            json.dumps(
                [
                    [str(tmp_path / "cache-0"), index],
                    [str(tmp_path / "cache-0"), [*train, "--optim.epochs=1"]],
                    [str(tmp_path / "cache-1"), [*train, "--optim.epochs=2"]],
                ]
            ),
        ],
        cwd=ROOT,
        env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    indexed, _, result = map(json.loads, done.stdout.splitlines())
    assert indexed["bad"] == {"train": 1, "val": 0}
    manifest = Manifest.read(tmp_path / "train.parquet")
    assert manifest.table["path"][0].as_py().startswith("s3://clips/videos/train/")
    assert manifest.table["status"].to_pylist() == ["ok"] * 8 + ["not_found"]
    assert result["last_checkpoint"] == "s3://clips/runs/far/checkpoint-00000004"
    assert "continuing at epoch 2, sample 0 (step 2)" in done.stderr
    assert checkpoints.read_meta(result["last_checkpoint"]).step == result["steps"] == 4


_WITH_STATUS = """
import json, sys
from pipelines import cli
for command in json.loads(sys.argv[1]):
    print("status", cli.main([*command, "--address=local", "--json"]), file=sys.stderr, flush=True)
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_outage_costs_no_restart_and_one_beyond_the_patience_ends_in_order(store, tmp_path):
    """Manifests and the run are in the store, under a name with signs that mean something in URLs; videos are here."""
    environment, folder = store
    line = Line(environment["AWS_ENDPOINT_URL"])
    for split in ("train", "val"):
        manifest_of(*sorted((folder / "videos" / split).iterdir())).write(tmp_path / split)
        content = (tmp_path / split).read_bytes()
        fsspec_s3(environment).pipe_file(f"clips/m/{split}.parquet", content)
    train = [*TRAIN, "--train.name=a run #1?"]
    impatient = [*train, "--train.store_patience_s=1", "--optim.epochs=24"]
    commands = [[*train, "--optim.epochs=20"], impatient, [*train, "--optim.epochs=22"]]
    said = []
    process = subprocess.Popen(
        [sys.executable, "-c", _WITH_STATUS, json.dumps(commands)],
        cwd=ROOT,
        env={
            **os.environ,
            **environment_of(line.url),
            "OMP_NUM_THREADS": "1",
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def read_until(text):
        began = len(said)
        while len(said) == began or text not in said[-1]:
            said.append(process.stderr.readline())
            assert said[-1], "".join(said)
        return "".join(said[began:])

    try:
        read_until("epoch 2/20 done")
        line.cut()
        read_until("s3://clips does not answer (Could not connect")
        line.mend()
        first = read_until("status 0")
        read_until("continuing at epoch 21")
        line.cut()
        second = read_until("status 2")
        line.mend()
        third = read_until("status 0")
    finally:
        process.kill()
        out, _ = process.communicate()
        line.cut()
    assert "s3://clips answers again, after" in first
    assert "Traceback" not in first + second + third
    assert "started again" not in first + second + third
    # Who meets it first, Ray Train's controller or the workers, is a matter of time.
    (ended,) = [each for each in second.splitlines() if each.startswith("stm train: run a run #1?")]
    assert "Could not connect to the endpoint" in ended
    assert "the same command" in ended
    assert "ended from outside" not in ended
    assert "continuing at epoch 21, sample 0 (step 40)" in third
    results = [json.loads(each) for each in out.splitlines()]
    assert [result["steps"] for result in results] == [40, 44]


@pytest.mark.slow
def test_clips_whose_store_is_away_are_waited_for(store, monkeypatch):
    import s3fs

    line = Line(store[0]["AWS_ENDPOINT_URL"])
    for name, value in environment_of(line.url).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": line.url})
    s3fs.S3FileSystem.clear_instance_cache()
    names = [f"s3://clips/videos/train/{kind}-0000.mp4" for kind in ("left", "right", "up")]
    row = plan_row(names, (48, 48))
    spec = ClipSpec(num_segments=2, size=32)
    (right,) = decode_shares(row, spec)
    assert right["weights"].tolist() == [[1, 1, 1]], right["failures"]
    line.cut()
    (lost,) = decode_shares(row, spec)
    assert lost["weights"].tolist() == [[0, 0, 0]]
    failures = json.loads(lost["failures"][0])
    assert [failure["reason"] for failure in failures] == ["unreadable"] * 3
    assert all("its store does not answer: Could not connect" in f["detail"] for f in failures)

    slept = []

    def mend(seconds):
        slept.append(seconds)
        line.mend()

    monkeypatch.setattr(
        patience, "time", types.SimpleNamespace(sleep=mend, monotonic=time.monotonic)
    )
    (found,) = decode_shares(row, spec, patience_s=60)
    line.cut()
    s3fs.S3FileSystem.clear_instance_cache()
    assert len(slept) == 1
    assert (found["weights"] == right["weights"]).all()
    assert (found["clips"] == right["clips"]).all()

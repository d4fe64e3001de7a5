"""Videos in an object store: read, indexed and streamed by their URLs, from a real server that speaks S3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stm.checkpoint import format as checkpoints
from stm.data.decode import VideoError, probe, read_frames
from stm.data.manifest import Manifest
from stm.data.synthetic import write_videos
from tests.stores import environment_of, s3_server

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """(environment that reaches it, local copy of what is in s3://clips)."""
    import s3fs

    folder = tmp_path_factory.mktemp("store")
    with s3_server(folder) as url:
        write_videos(folder, num_train=8, num_test=8, size=48, num_frames=6)
        remote = s3fs.S3FileSystem(key="test", secret="test", endpoint_url=url)
        remote.mkdir("clips")
        remote.put(str(folder / "videos"), "clips/videos", recursive=True)
        yield environment_of(url), folder


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

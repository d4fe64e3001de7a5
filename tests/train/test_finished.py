"""A run that is trained to its end says so at once; a longer one goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from stm.checkpoint import format as checkpoints
from stm.checkpoint.store import CheckpointStore
from stm.config import Config, DataConfig, ModelConfig, OptimConfig, TrackingConfig, TrainConfig
from stm.data.manifest import SCHEMA, Manifest
from stm.data.stream.plan import Position
from stm.train.finished import end_of
from stm.train.summary import say_if_chosen_anew
from tests.logged import logged

HEAVY = ("ray", "mlflow", "torch")


def write_manifest(path: Path, num_videos: int, dataset: str) -> Manifest:
    """A manifest of videos that nothing opens."""
    columns = {
        "video_id": [f"v{number}" for number in range(num_videos)],
        "path": [f"/videos/v{number}.avi" for number in range(num_videos)],
        "label": [number % 2 for number in range(num_videos)],
        "status": ["ok"] * num_videos,
    }
    arrays = []
    for field in SCHEMA:
        empty = "" if pa.types.is_string(field.type) else 8
        arrays.append(pa.array(columns.get(field.name, [empty] * num_videos), field.type))
    table = pa.Table.from_arrays(arrays, schema=SCHEMA)
    manifest = Manifest(table, ("a", "b"), dataset, flip=True)
    manifest.write(path)
    return manifest


@pytest.fixture
def run(tmp_path):
    """A run of three epochs, the second its best, validated on a test list; and its config as a file."""
    trained = write_manifest(tmp_path / "train.parquet", 8, "ucf101")
    val = write_manifest(tmp_path / "val.parquet", 4, "ucf101")
    write_manifest(tmp_path / "other.parquet", 6, "mine")
    config = Config(
        model=ModelConfig(depth=26, width=16),
        data=DataConfig(
            train=str(tmp_path / "train.parquet"), val=str(tmp_path / "val.parquet"), num_segments=2
        ),
        optim=OptimConfig(epochs=3, batch_size=4),
        train=TrainConfig(name="first", storage=str(tmp_path / "runs")),
        tracking=TrackingConfig(uri="none"),
    )
    (tmp_path / "c.json").write_text(json.dumps(config.to_dict()))
    store = CheckpointStore(str(tmp_path / "runs" / "first"))
    for epoch, top1 in [(2, 0.75), (3, 0.5)]:
        meta = checkpoints.Meta(
            config=config.to_dict(), classes=["a", "b"], dataset="ucf101", position=Position(epoch, 0),
            step=2 * epoch, fingerprint=trained.fingerprint, val_fingerprint=val.fingerprint,
            val_dataset="ucf101",
            metrics={"epoch": epoch, "val_top1": top1, "val_top5": 1.0, "val_num_videos": 4.0},
        )  # fmt: skip
        store.commit(
            meta.step, lambda f, m=meta: checkpoints.write(f, torch.nn.Linear(2, 2), {}, m)
        )
    return config, store, tmp_path


def stm_train(folder: Path, *words: str) -> tuple[int, str, str, list[str]]:
    """Exit status, stdout, stderr of `stm train`, and which heavy libraries it loaded."""
    code = (
        "import sys; from pipelines.cli import main; status = main(sys.argv[1:]); "
        f"print([n for n in {HEAVY} if n in sys.modules], file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "--config", str(folder / "c.json"), *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    *lines, loaded = done.stderr.strip().splitlines()
    return done.returncode, done.stdout, "\n".join(lines), json.loads(loaded.replace("'", '"'))


def test_a_finished_run_says_so_without_ray_mlflow_or_pytorch(run):
    _, store, folder = run
    status, out, err, loaded = stm_train(folder)
    assert (status, loaded) == (0, [])
    assert f"run first is finished: 3 epochs, step 6, in {store.run_directory}." in err
    assert "any number above 3 continues it" in err
    assert "change nothing" not in err
    assert "best 75.0% (epoch 2), last 50.0%, of 4 videos" in out
    assert (
        "UCF-101 publishes no validation list, so the best checkpoint was chosen on its test list"
        in out
    )


def test_settings_that_change_nothing_in_a_finished_run_are_named(run):
    _, _, folder = run
    words = ["--optim.epochs", "2", "--workers", "2", "--data.val", str(folder / "other.parquet")]
    status, out, err, loaded = stm_train(folder, *words)
    assert (status, loaded) == (0, [])
    assert "and --optim.epochs is 2" in err
    assert "these change nothing: train.num_workers (was 1, now 2); data.val (another" in err
    assert "best 75.0%" in out


def test_settings_of_another_run_are_refused_for_a_finished_one_too(run):
    _, _, folder = run
    status, out, err, _ = stm_train(folder, "--optim.lr", "0.5")
    assert (status, out) == (2, "")
    assert "exists with other settings (optim.lr: was" in err


def test_a_finished_run_delivers_the_rest_of_its_record_without_ray(run):
    _, store, folder = run
    uri = f"sqlite:///{folder}/record.db"
    status, _, err, loaded = stm_train(folder, "--tracking.uri", uri)
    assert status == 0, err
    assert "ray" not in loaded
    assert "mlflow" in loaded
    from mlflow import MlflowClient

    run_id = (Path(store.run_directory) / "tracking.run_id").read_text()
    assert MlflowClient(uri).get_run(run_id).info.status == "FINISHED"
    status, out, _, loaded = stm_train(folder, "--tracking.uri", uri, "--json")
    assert (status, loaded) == (0, [])
    assert json.loads(out)["run_id"] == run_id


def test_what_is_not_at_its_end_or_not_whole_is_not_finished(run):
    config, store, _ = run
    assert end_of(config, store).step == 6
    assert end_of(replace(config, optim=replace(config.optim, epochs=4)), store) is None
    path, _ = store.latest()
    (Path(path) / checkpoints.MODEL).write_bytes(b"cut")
    assert end_of(config, store) is None


def test_a_run_that_goes_on_with_another_manifest_is_told_that_it_chooses_anew(run):
    _, store, _ = run
    with logged() as said:
        say_if_chosen_anew(store, store.latest()[1].val_fingerprint)
        say_if_chosen_anew(store, "")
    assert not said
    with logged() as said:
        say_if_chosen_anew(store, "another")
    assert "checkpoint-00000004 (epoch 2, top-1 75.0%): best is chosen anew" in said[0]

"""Training through Ray: it learns, its counts are exact, and a run that was killed continues bit for bit."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
import ray
import torch
from mlflow import MlflowClient

from stm.checkpoint import format as checkpoints
from stm.checkpoint.store import CheckpointStore
from stm.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    ParameterGroup,
    TrackingConfig,
    TrainConfig,
)
from stm.data.annotations import read_annotations
from stm.data.index.indexing import index_videos
from stm.data.manifest import Manifest
from stm.data.synthetic import write_videos
from stm.errors import UserError
from stm.model import build_model
from stm.spool import NAME, series
from stm.train import fit
from stm.train.async_validation import validate_checkpoint
from stm.train.events import Failed, Kept
from stm.train.trainer import train
from tests.chaos.runs import arguments
from tests.logged import logged
from tests.train.test_drawn_settings import EVERY_KNOB

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def manifests(ray_cluster, tmp_path_factory):
    """22 usable videos to train on, 8 to validate on, of which one cannot be read."""
    root = tmp_path_factory.mktemp("videos")
    annotations = write_videos(root, num_train=24, num_test=8, size=48, num_frames=12)
    (root / "videos" / "train" / "up-0000.mp4").write_text("not a video")
    (root / "videos" / "train" / "up-0001.mp4").write_bytes(b"")
    (root / "videos" / "val" / "up-0000.mp4").write_text("not a video")
    indexed, _ = index_videos(read_annotations("csv", root, annotations), cross_check=0)
    for split, manifest in indexed.items():
        manifest.write(root / f"{split}.parquet")
    return {split: str(root / f"{split}.parquet") for split in indexed}


AUGMENTED = {
    "sampling": "dense",
    "frame_stride": 2,
    "crop": "resized",
    "flip": "swap",
    "reverse": "swap",
    "temporal_jitter": 0.5,
    "color_jitter": 0.4,
    "hue": 0.1,
    "grey": 0.2,
    "blur": 0.3,
    "randaugment": 2,
    "erasing": 0.3,
}
"""Whatever training draws, it must draw again where it goes on."""


def config_for(manifests, storage, name, *, workers=1, epochs=3, **train_settings):
    return Config(
        model=ModelConfig(depth=26, width=16, dropout=0.5),
        data=DataConfig(
            train=manifests["train"],
            val=manifests["val"],
            num_segments=4,
            size=32,
            clips_per_task=4,
            **AUGMENTED,
        ),
        optim=OptimConfig(batch_size=4, lr=0.02, epochs=epochs, milestones=[2]),
        train=TrainConfig(
            name=name,
            storage=str(storage),
            num_workers=workers,
            cpus_per_worker=0.5,
            threads_per_worker=1,
            checkpoint_every_steps=2,
            log_every_steps=2,
            **train_settings,
        ),
        tracking=TrackingConfig(uri="none"),
    )


@pytest.fixture(scope="module")
def undisturbed(manifests, tmp_path_factory):
    """(config, result, what was said) of a run of three epochs on so many workers; made once."""
    made = {}

    def run(workers):
        if workers not in made:
            storage = tmp_path_factory.mktemp("whole")
            config = config_for(manifests, storage, "whole", workers=workers)
            with logged() as said:
                made[workers] = config, train(config), said
        return made[workers]

    return run


def final(result):
    return checkpoints.read_weights(result["last_checkpoint"])


def assert_same_weights(a, b):
    different = [key for key in a if not torch.equal(a[key], b[key])]
    assert not different, f"{len(different)} of {len(a)} tensors differ, first {different[:3]}"


def start(config):
    """The same training in a process of its own, with a cluster of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "stm", "train", *arguments(config), "--address=local", "--json"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for(condition, process, timeout_s=120):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, process.communicate()[1][-2000:]
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_killed_run_continues_to_the_same_weights_bit_for_bit(
    manifests, undisturbed, tmp_path, workers
):
    _, whole, _ = undisturbed(workers)
    killed = config_for(manifests, tmp_path, "killed", workers=workers)
    process = start(killed)
    run = tmp_path / "killed"
    wait_for(
        lambda: len(list(run.glob("checkpoint-*/meta.json"))) >= 1 and committed_step(run) >= 4,
        process,
    )
    process.send_signal(signal.SIGKILL)
    process.wait()
    taken = committed_step(run)
    assert 4 <= taken < whole["steps"], "it was to be killed half-way"

    resumed = train(killed)
    assert resumed["steps"] == whole["steps"] == 18
    assert_same_weights(final(resumed), final(whole))
    assert resumed["val_top1"] == whole["val_top1"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_streams_of_which_one_is_killed_train_the_very_run_of_one(
    manifests, undisturbed, tmp_path
):
    _, whole, _ = undisturbed(2)
    config = config_for(manifests, tmp_path, "streams", workers=2)
    config = replace(config, data=replace(config.data, streams=2))
    killed, seen = [], []

    def kill(event):
        if not isinstance(event, Kept):
            return
        streams = [
            process
            for process in psutil.process_iter(["cmdline", "ppid"])
            if (process.info["cmdline"] or [""])[0].startswith("ray::SplitCoordinator")
            and psutil.Process() in process.parents()
        ]
        seen.append(len(streams))
        if event.step >= 4 and not killed:
            killed.append(streams[-1].pid)
            streams[-1].kill()

    result = train(config, on_event=kill)
    assert killed
    assert max(seen) >= 2
    assert result["steps"] == whole["steps"]
    assert_same_weights(final(result), final(whole))
    assert result["val_top1"] == whole["val_top1"]


@pytest.mark.slow
def test_a_run_with_a_damaged_checkpoint_goes_on_from_the_one_before(
    manifests, undisturbed, tmp_path
):
    _, whole, _ = undisturbed(1)
    config = config_for(manifests, tmp_path, "damaged")
    newest = train(replace(config, optim=replace(config.optim, epochs=1)))["last_checkpoint"]
    file = Path(newest) / checkpoints.STATE
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with logged() as said:
        resumed = train(config)
    assert any(f"{file} is damaged" in line and "set aside" in line for line in said), said
    assert any("continuing at epoch 1" in line and "(step 4)" in line for line in said), said
    assert resumed["steps"] == 18
    assert_same_weights(final(resumed), final(whole))


def test_ctrl_c_ends_a_run_with_a_word_and_a_record_that_says_so(manifests, tmp_path):
    config = config_for(manifests, tmp_path, "interrupted", epochs=40)
    process = start(replace(config, tracking=TrackingConfig()))
    run = tmp_path / "interrupted"
    wait_for(lambda: run.is_dir() and committed_step(run) >= 2, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 130, said[-2000:]
    assert f"interrupted; the same command continues at step {committed_step(run)}\n" in said
    assert "Traceback" not in said
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run_id = (run / "tracking.run_id").read_text().strip()
    assert client.get_run(run_id).info.status == "KILLED"


@pytest.mark.slow
def test_a_second_driver_of_a_run_is_refused_until_the_first_is_dead(manifests, tmp_path):
    config = config_for(manifests, tmp_path, "twice", epochs=1)
    run = tmp_path / "twice"
    run.mkdir()
    script = (
        "import sys\nfrom stm.checkpoint.lease import hold\n"
        f"with hold({str(run)!r}):\n    print('held', flush=True)\n    sys.stdin.readline()\n"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert first.stdout.readline() == "held\n"
        second = start(config)
        _, said = second.communicate(timeout=250)
        assert second.returncode == 2, said[-2000:]
        assert f"is driven by process {first.pid} on " in said
        assert "Traceback" not in said
        assert sorted(file.name for file in run.iterdir()) == ["driver.json"]
    finally:
        first.kill()
        first.communicate()
    with logged() as said:
        result = train(config)
    assert result["steps"] == 6
    assert any(f"process {first.pid} on" in line and "which is dead" in line for line in said)
    assert not (run / "driver.json").exists()


@pytest.mark.slow
def test_a_progress_process_that_is_killed_costs_no_step_of_the_record(
    manifests, tmp_path, monkeypatch
):
    actors, killed = [], []
    real = fit.board

    @contextlib.contextmanager
    def seen(*given, **more):
        with real(*given, **more) as actor:
            actors.append(actor)
            yield actor

    def kill(event):
        if isinstance(event, Kept) and event.step >= 4 and not killed:
            killed.append(ray.get(actors[0].__ray_call__.remote(lambda self: os.getpid())))
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(fit, "board", seen)
    config = replace(config_for(manifests, tmp_path, "told"), tracking=TrackingConfig())
    result = train(config, on_event=kill)
    assert killed
    assert sorted(series(tmp_path / "told" / NAME, "train/loss")) == list(
        range(1, result.steps + 1)
    )
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    points = client.get_metric_history(result.run_id, "train/loss")
    assert sorted(point.step for point in points) == list(range(1, result.steps + 1))
    run = client.get_run(result.run_id)
    assert run.info.status == "FINISHED"
    assert "22 videos" in run.data.tags["mlflow.note.content"]
    used = {each.tags[0].value: each.dataset.digest for each in run.inputs.dataset_inputs}
    digests = {split: Manifest.read(path).fingerprint[:36] for split, path in manifests.items()}
    assert used == digests


def committed_step(run):
    found = CheckpointStore(str(run)).latest()
    return found[1].step if found else 0


@pytest.mark.slow
def test_losses_step_by_step_are_recorded_once_and_agree_across_world_sizes(manifests, tmp_path):
    losses = {}
    for workers in (1, 2):
        config = config_for(manifests, tmp_path, f"w{workers}", workers=workers, epochs=1)
        config = replace(
            config, tracking=TrackingConfig(), model=replace(config.model, dropout=0.0)
        )
        result = train(config)
        assert result["run_id"]
        losses[workers] = series(tmp_path / f"w{workers}" / "tracking.jsonl", "train/loss")
    assert sorted(losses[1]) == sorted(losses[2]) == list(range(1, 7))
    # The first step has the same weights and the same global batch. BN statistics are each rank's own, so it is
    # close rather than equal; later steps drift apart for that reason.
    assert losses[1][1] == pytest.approx(losses[2][1], rel=0.05)


def test_validation_counts_every_row_and_the_unreadable_one_as_wrong(undisturbed):
    _, result, said = undisturbed(2)
    meta = checkpoints.read_meta(result["last_checkpoint"])
    assert meta.metrics["val_num_videos"] == 8
    assert meta.metrics["val_unreadable"] == 1
    assert meta.metrics["val_top1"] * 8 == pytest.approx(round(meta.metrics["val_top1"] * 8))
    assert meta.metrics["val_top1"] <= 7 / 8
    assert any("22 videos (2 unusable)" in line for line in said)


@pytest.mark.slow
def test_a_run_begins_with_another_and_goes_on_without_it(manifests, undisturbed, tmp_path):
    """Its rate is all but 0: what it ends with is what it began with. It goes on when the other is gone."""
    _, source, _ = undisturbed(2)
    shutil.copytree(Path(source["last_checkpoint"]), tmp_path / "source")
    config = config_for(manifests, tmp_path, "second", workers=2, epochs=1)
    config = replace(
        config,
        model=replace(config.model, pretrained=str(tmp_path / "source")),
        optim=replace(config.optim, lr=1e-30, milestones=[]),
    )
    with logged() as said:
        result = train(config)
    before, after = checkpoints.read_weights(tmp_path / "source"), final(result)
    for name in (
        "conv1.weight",
        "layer1.0.temporal.weight",
        "layer4.1.cmm.expand.weight",
        "fc.weight",
    ):
        torch.testing.assert_close(after[name], before[name], rtol=1e-6, atol=0)
    began = checkpoints.read_meta(result["last_checkpoint"]).started_from
    assert began["classifier_rows"] == 8
    assert any(line.startswith("begins with") and began["summary"] in line for line in said)

    shutil.rmtree(tmp_path / "source")
    longer = replace(config, optim=replace(config.optim, epochs=2))
    assert checkpoints.read_meta(train(longer)["last_checkpoint"]).started_from == began
    other = replace(longer, model=replace(longer.model, pretrained=None))
    other = replace(other, optim=replace(other.optim, epochs=3))
    assert checkpoints.read_meta(train(other)["last_checkpoint"]).started_from == began


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"pretrained": "no/such"}, "--model.pretrained no/such: there is no such file"),
        ({"pretrained": "imagenet"}, "publishes no ResNet of depth 26"),
    ],
    ids=str,
)
def test_a_run_that_cannot_begin_is_refused_before_it_makes_a_folder(
    manifests, tmp_path, model, words
):
    config = config_for(manifests, tmp_path, "third")
    with pytest.raises(UserError) as error:
        train(replace(config, model=replace(config.model, **model)))
    assert words in str(error.value)
    assert not (tmp_path / "third").exists()


def test_a_finished_run_is_not_trained_again_unless_it_is_made_longer(undisturbed, tmp_path):
    config, first, _ = undisturbed(2)
    with logged() as said:
        again = train(config)
    assert again == first
    assert not any("step" in line and "loss" in line for line in said)
    # Of a copy, since a longer run removes checkpoints that other tests look at.
    shutil.copytree(Path(config.train.storage) / "whole", tmp_path / "whole")
    copied = replace(config.train, storage=str(tmp_path))
    longer = train(replace(config, train=copied, optim=replace(config.optim, epochs=4)))
    assert (first["steps"], longer["steps"]) == (18, 24)


def test_a_loss_that_is_not_finite_stops_the_run_with_step_and_videos(manifests, tmp_path):
    config = config_for(manifests, tmp_path, "nan", epochs=2)
    config = replace(config, optim=replace(config.optim, lr=1e30, clip_grad_norm=0.0))
    with pytest.raises(
        UserError, match=r"loss of step \d+ is not finite\..*videos of that batch: videos/train/"
    ):
        train(config)


def test_videos_that_vanish_after_indexing_stop_the_run_by_name(manifests, tmp_path):
    manifest = Manifest.read(manifests["train"])
    folder = tmp_path / "gone"
    folder.mkdir()
    paths = []
    for number, path in enumerate(manifest.table["path"].to_pylist()):
        copy = folder / f"{number}.mp4"
        if number % 2:  # every other video is never there
            shutil.copy(path, copy)
        paths.append(str(copy))
    column = manifest.table.schema.get_field_index("path")
    table = manifest.table.set_column(column, "path", pa.array(paths))
    replace(manifest, table=table).write(tmp_path / "gone.parquet")
    config = config_for(
        {**manifests, "train": str(tmp_path / "gone.parquet")}, tmp_path, "gone", epochs=1
    )
    with pytest.raises(
        UserError, match=r"could not be decoded, more than the 1 .*\.mp4 \(not_found\)"
    ):
        train(config)


def test_a_job_that_does_not_fit_is_refused_with_the_sum(manifests, tmp_path):
    config = config_for(manifests, tmp_path, "large", workers=4)
    config = replace(config, train=replace(config.train, cpus_per_worker=2.0))
    with pytest.raises(
        UserError, match=r"4 workers x 2 CPU \+ 1 CPU to decode = 9 CPU, but the cluster has 4 CPU"
    ):
        train(config)


def test_other_classes_to_validate_on_are_refused(manifests, tmp_path):
    manifest = Manifest.read(manifests["val"])
    replace(manifest, classes=(*manifest.classes[:-1], "jump")).write(tmp_path / "other.parquet")
    config = config_for({**manifests, "val": str(tmp_path / "other.parquet")}, tmp_path, "other")
    with pytest.raises(UserError, match=r"has videos of 1 class.* does not have: 'jump'"):
        train(config)


def test_classes_to_validate_on_are_matched_by_name(manifests, undisturbed, tmp_path):
    _, whole, _ = undisturbed(2)
    manifest = Manifest.read(manifests["val"])
    backwards = pa.array(
        [manifest.num_classes - 1 - k for k in manifest.table["label"].to_pylist()], pa.int32()
    )
    at = manifest.table.schema.get_field_index("label")
    replace(
        manifest,
        classes=manifest.classes[::-1],
        table=manifest.table.set_column(at, manifest.table.schema.field("label"), backwards),
    ).write(tmp_path / "backwards.parquet")
    named = {**manifests, "val": str(tmp_path / "backwards.parquet")}
    result = train(config_for(named, tmp_path, "backwards", workers=2))
    metrics = [checkpoints.read_meta(each["last_checkpoint"]).metrics for each in (whole, result)]
    assert metrics[0] == metrics[1]


def test_every_option_of_the_trainer_works_together(manifests, tmp_path):
    """Two workers; parts of a batch, groups, averaged weights, mixing, synchronised statistics, validation beside."""
    config = config_for(
        manifests, tmp_path, "all", workers=2, epochs=2, validation="async", min_workers=1
    )
    config = replace(
        config,
        optim=replace(
            config.optim,
            accumulate=2,
            groups=[ParameterGroup(match=r"^fc\.", lr_scale=2.0, weight_decay=0.0)],
            ema_decay=0.5,
            mixup=0.2,
            cutmix=1.0,
            sync_batchnorm=True,
            label_smoothing=0.1,
            reference_batch_size=8,
            name="adamw",
            schedule="cosine",
            min_lr=1e-3,
            warmup_epochs=0.5,
            preset="tsn",
            layerwise_decay=0.8,
            freeze=["stem", "layer1"],
            partial_bn=True,
        ),
        model=replace(config.model, gradient_checkpointing=True),
    )
    with logged() as said:
        result = train(config)
    assert result["steps"] == 12
    assert any("lr 0.01 (scaled from 0.02 at 8), gradients of 2 parts a step" in s for s in said)
    validated = [line for line in said if "validated  val top-1" in line]
    assert validated, said
    meta = checkpoints.read_meta(result["last_checkpoint"])
    assert meta.metrics["val_num_videos"] == 8
    assert meta.metrics["val_unreadable"] == 1
    averaged = checkpoints.read_weights(result["last_checkpoint"])
    state = checkpoints.read_state(result["last_checkpoint"])
    assert state["averaged"] == 12
    assert not torch.equal(averaged["fc.weight"], state["weights"]["fc.weight"])
    torch.manual_seed(config.train.seed)
    fresh = build_model(**checkpoints.model_arguments(config), num_classes=8).state_dict()
    for name, value in fresh.items():
        if name.startswith(("conv1", "bn1", "layer1")):
            assert torch.equal(averaged[name], value), name
            assert torch.equal(state["weights"][name], value), name
    assert any("keeps its random weights: there is no --model.pretrained" in s for s in said)


@pytest.mark.slow
def test_a_killed_run_with_every_setting_continues_bit_for_bit(manifests, tmp_path):
    optim = OptimConfig(**{**EVERY_KNOB, "batch_size": 4, "epochs": 3, "groups": [
        ParameterGroup(**group) for group in EVERY_KNOB["groups"]
    ]})  # fmt: skip
    made = {
        name: replace(config_for(manifests, tmp_path, name, workers=2), optim=optim)
        for name in ("whole", "killed")
    }
    whole = train(made["whole"])
    process = start(made["killed"])
    run = tmp_path / "killed"
    wait_for(lambda: run.is_dir() and committed_step(run) >= 4, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert committed_step(run) < whole["steps"], "it was to be killed half-way"
    resumed = train(made["killed"])
    assert_same_weights(final(resumed), final(whole))
    assert resumed["val_top1"] == whole["val_top1"]


@pytest.mark.slow
def test_a_rate_at_which_nothing_is_learnt_is_told_once_with_a_lower_one(manifests, tmp_path):
    config = replace(config_for(manifests, tmp_path, "high", epochs=2), tracking=TrackingConfig())
    optim = replace(config.optim, name="adamw", lr=0.2, weight_decay=0.0)
    with logged() as said:
        result = train(replace(config, optim=optim))
    (told,) = (line for line in said if "of guessing" in line)
    assert re.match(
        r"the mean loss of epoch 1 was [\d.]+, above the 2.079 of guessing among 8", told
    )
    assert told.endswith("try --optim.lr 0.05 under another --train.name")
    assert any("the rate never falls: the first of --optim.milestones [2]" in line for line in said)
    run = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_run(result.run_id)
    assert run.data.params["optim.name"] == "adamw"
    assert run.data.params["optim.betas"] == "[0.9, 0.999]"
    assert "optim.momentum" not in run.data.params
    assert "; adamw (betas 0.9 and 0.999" in run.data.tags["mlflow.note.content"]
    with pytest.raises(
        UserError, match=r"other settings \(optim.name: was adamw, now sgd\): choose"
    ):
        train(replace(config, optim=replace(optim, name="sgd")))


def test_compiling_without_a_compiler_is_refused(manifests, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    config = config_for(manifests, tmp_path, "compiled", compile=True)
    with pytest.raises(UserError, match="with no-such-compiler, which is not installed"):
        train(config)
    assert not (tmp_path / "compiled").exists()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_compiled_network_takes_the_steps_of_the_plain_one(manifests, tmp_path, workers):
    """Their sums are rounded otherwise, which grows from step to step, slowly where steps are small."""
    losses = {}
    for compiled in (False, True):
        name = f"compiled-{compiled}"
        config = config_for(manifests, tmp_path, name, workers=workers, epochs=1, compile=compiled)
        config = replace(
            config,
            tracking=TrackingConfig(),
            model=replace(config.model, dropout=0.0),
            optim=replace(config.optim, lr=0.001),
        )
        result = train(config)
        assert checkpoints.read_meta(result["last_checkpoint"]).metrics["val_num_videos"] == 8
        losses[compiled] = series(tmp_path / name / "tracking.jsonl", "train/loss")
    assert losses[True].keys() == losses[False].keys() == set(range(1, 7))
    assert losses[True][1] == pytest.approx(losses[False][1], rel=1e-4)
    for step, loss in losses[True].items():
        assert loss == pytest.approx(losses[False][step], rel=0.02)


def test_validation_beside_training_counts_as_the_one_inside_does(manifests, tmp_path):
    config = config_for(manifests, tmp_path, "inside", epochs=1)
    path = train(config)["last_checkpoint"]
    inside = checkpoints.read_meta(path).metrics
    beside = validate_checkpoint(path, config, Manifest.read(manifests["val"]))
    for name, value in beside.items():
        assert inside[name] == pytest.approx(value, rel=1e-4), name


@pytest.mark.slow
def test_a_full_disk_is_told_and_the_same_command_goes_on_when_there_is_room(manifests, tmp_path):
    """On a real file system of 48 MiB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount a small file system")
    try:
        config = config_for(manifests, disk, "full", epochs=2)
        train(replace(config, optim=replace(config.optim, epochs=1)))
        kept = CheckpointStore(str(disk / "full")).latest()
        with (disk / "filler").open("wb") as filler, contextlib.suppress(OSError):
            while True:
                filler.write(b"x" * 65536)
                filler.flush()
        with (
            logged() as said,
            pytest.raises(
                UserError, match=r"step 12 could not be written.*No space left.*make room"
            ),
        ):
            train(config)
        told = [line for line in said if "could not be written" in line]
        assert told, said
        assert "training goes on" in told[0]
        assert CheckpointStore(str(disk / "full")).latest() == kept, "the last good one is kept"
        (disk / "filler").unlink()
        assert train(config)["steps"] == 12
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
def test_a_store_that_takes_no_checkpoint_is_told_and_the_run_goes_on_to_its_end(
    manifests, tmp_path
):
    """A file stands where the store was; the last checkpoint ends the run, and the same command takes it up again."""
    config = config_for(manifests, tmp_path, "away", epochs=2)
    train_settings = replace(
        config.train,
        storage=f"file://{tmp_path}/store",
        store_patience_s=0.1,
        checkpoint_every_steps=2,
    )
    config = replace(config, train=train_settings)
    (tmp_path / "real").mkdir()
    (tmp_path / "file").write_bytes(b"")
    events = []

    def point_to(name):
        (tmp_path / "link").symlink_to(tmp_path / name)
        (tmp_path / "link").replace(tmp_path / "store")

    def on_event(event):
        events.append(event)
        if isinstance(event, Kept):
            point_to("file")

    point_to("real")
    with logged() as said, pytest.raises(UserError, match="run away stopped: ") as stopped:
        train(config, on_event=on_event)
    told = [line for line in said if "could not be written" in line and "training goes on" in line]
    assert told, said
    assert not [event for event in events if isinstance(event, Failed)], "no worker is started anew"
    message = str(stopped.value)
    assert "the checkpoint of step 12 could not be written (file://" in message
    assert "The last good one is file://" in message
    assert message.endswith("then run the same command again")
    point_to("real")
    with logged() as said:
        assert train(config)["steps"] == 12
    assert any("continuing at epoch" in line for line in said)


@pytest.mark.slow
def test_a_run_whose_disk_is_unmounted_is_told_and_goes_on_when_it_is_back(manifests, tmp_path):
    config = config_for(manifests, tmp_path, "here", epochs=8)
    folder, away = tmp_path / "here", tmp_path / "away"

    def unmount(event):
        if isinstance(event, Kept) and not away.exists():
            folder.rename(away)

    with logged() as said, pytest.raises(UserError, match=r"here is gone: mount its disk again"):
        train(config, on_event=unmount)
    assert [line for line in said if "could not be written" in line and "training goes on" in line]
    assert not folder.exists(), "it would be hidden by the disk when that is back"
    away.rename(folder)
    assert committed_step(folder) < 48
    assert train(config)["steps"] == 48


def test_clips_that_never_come_end_the_run_by_name(manifests, tmp_path):
    """Somebody else holds the CPUs that decoding counted on."""
    import ray

    class Holder:
        def ready(self):
            return True

    holder = ray.remote(Holder).options(num_cpus=3.5).remote()
    assert ray.get(holder.ready.remote())
    config = config_for(manifests, tmp_path, "starved")
    config = replace(
        config,
        data=replace(config.data, wait_deadline_s=3.0),
        train=replace(config.train, max_failures=0),
    )
    try:
        with (
            logged() as said,
            pytest.raises(UserError, match="run starved failed, after 0 restarts"),
        ):
            train(config)
    finally:
        ray.kill(holder)
    told = [line for line in said if re.search(r"waited \d+ s for the clips of step 1", line)]
    assert told, said
    assert "0 CPU are free now" in told[0]
    assert "this rank ends" in told[0]

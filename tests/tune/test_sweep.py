"""Sweeps through Ray Tune: true ends, free CPUs, and a killed driver that repeats nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import yaml

from stm.checkpoint.store import CheckpointStore
from stm.config import Config
from stm.data.annotations import read_annotations
from stm.data.index.indexing import index_videos
from stm.data.synthetic import write_videos
from stm.errors import UserError
from stm.spool import series
from stm.tune import record
from stm.tune.reading import parse_sweep
from stm.tune.results import REPORTS, read_reports
from stm.tune.sweep import run_sweep
from stm.tune.trial import is_out_of_memory

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def base(ray_cluster, tmp_path_factory):
    """Settings of a training that takes seconds, on 16 videos."""
    root = tmp_path_factory.mktemp("videos")
    annotations = write_videos(root, num_train=16, num_test=8, size=48, num_frames=12)
    indexed, _ = index_videos(read_annotations("csv", root, annotations), cross_check=0)
    for split, manifest in indexed.items():
        manifest.write(root / f"{split}.parquet")
    return {
        "model": {"depth": 26, "width": 16},
        "data": {
            "train": str(root / "train.parquet"),
            "val": str(root / "val.parquet"),
            "num_segments": 2,
            "size": 32,
            "clips_per_task": 4,
            "cpus_per_task": 0.5,
        },
        "optim": {"batch_size": 4, "clip_grad_norm": 0.0, "milestones": [2]},
        "train": {"cpus_per_worker": 0.5, "threads_per_worker": 1, "checkpoint_every_steps": 1},
    }


def sweep_text(base, storage, **settings):
    base = {**base, "train": {**base["train"], "storage": str(storage)}}
    return yaml.safe_dump({"base": base, **settings})


# A sweep in a process of its own, whose cluster has the dashboard; then the CPUs that are free.
_RUN = """
import json, logging, sys, time
logging.basicConfig(level="INFO", format="%(message)s")
from stm.tune.reading import read_sweep
from stm.tune.sweep import run_sweep
result = run_sweep(read_sweep(sys.argv[1]), address="local")
import ray
whole, deadline = ray.cluster_resources()["CPU"], time.monotonic() + 60
while (free := ray.available_resources().get("CPU", 0)) < whole and time.monotonic() < deadline:
    time.sleep(0.5)
ray.shutdown()
print(json.dumps({"result": result, "free": free, "whole": whole}))
"""


def run_apart(path):
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def children(storage, folder):
    run_id = (folder / "tracking.run_id").read_text()
    return record.find_children(record.Parent(f"sqlite:///{storage / 'mlflow.db'}", run_id))


@pytest.mark.timeout(600)  # nine processes are started for each trial
def test_each_trial_ends_as_it_did_and_leaves_every_cpu_free(base, tmp_path):
    """One trial holds still, one runs away and is ended early, one has a loss that is not finite."""
    text = sweep_text(
        base,
        tmp_path,
        name="small",
        searcher="grid",
        space={"optim.lr": "grid(1e-6, 0.02, 1e30)", "data.num_segments": "grid(2)"},
        scheduler={"name": "asha", "grace_epochs": 1, "reduction_factor": 2},
        budget={"epochs": 2},
        metric="val_loss",
        max_concurrent=1,
    )
    path = tmp_path / "small.yaml"
    path.write_text(text)
    outcome = run_apart(path)
    result = outcome["result"]
    folder = tmp_path / "small"
    found = read_reports(folder / REPORTS)
    assert [trial.settings["optim.lr"] for trial in found] == [1e-6, 0.02, 1e30]
    assert [trial.state for trial in found] == ["finished", "stopped early", "failed"], found
    assert "not finite" in found[2].why
    assert found[0].last_epoch == 2
    assert found[1].last_epoch == 1
    assert found[0].last("clips") == 32
    assert 0 < found[0].epochs[1]["cost"] < found[0].epochs[2]["cost"]
    assert outcome["free"] == outcome["whole"], "a trial that was ended kept its CPUs"

    runs = children(tmp_path, folder)
    states = {trial.state: runs[trial.trial].info.status for trial in found}
    assert states == {"finished": "FINISHED", "stopped early": "KILLED", "failed": "FAILED"}
    learnt = {float(runs[trial.trial].data.params["optim.lr"]) for trial in found}
    assert learnt == {0.02, 1e-6, 1e30}, "the settings that trials really ran with"
    for trial in found[:2]:
        steps = series(folder / f"small-{trial.trial}" / "tracking.jsonl", "train/loss")
        assert max(steps) >= 4 * trial.last_epoch

    best = Config.from_dict(yaml.safe_load((folder / "best.yaml").read_text()))
    assert best.optim.lr == result["best"]["settings"]["optim.lr"]
    assert best.optim.epochs == 2
    assert best.data.max_cpus is None
    table = pq.read_table(folder / "results.parquet").to_pylist()
    assert [(row["state"], row["epoch"]) for row in table] == [
        ("finished", 1), ("finished", 2), ("stopped early", 1), ("failed", None),
    ]  # fmt: skip
    for name in ("trials.png", "cost.png", "lr.png"):
        assert (folder / name).stat().st_size > 1000

    began = time.monotonic()
    again = run_sweep(parse_sweep(text), address="local")
    assert time.monotonic() - began < 30, "nothing was left to do"
    assert again["best"] == result["best"]
    assert len(children(tmp_path, folder)) == 3
    with pytest.raises(UserError, match="exists with another budget"):
        run_sweep(parse_sweep(text.replace("epochs: 2", "epochs: 3")), address="local")


def test_a_sweep_that_does_not_fit_is_refused_before_anything_is_written(base, tmp_path):
    settings = {"space": {"optim.lr": "choice(0.1)"}, "max_concurrent": 5, "num_trials": 9}
    with pytest.raises(UserError, match=r"5 trials at once x .* = 5 CPU, but the cluster has 4"):
        run_sweep(parse_sweep(sweep_text(base, tmp_path, **settings)), address="local")
    assert not list(tmp_path.iterdir())


def test_a_cluster_without_dashboard_is_refused_as_it_would_keep_the_cpus(base, tmp_path):
    settings = {"space": {"optim.lr": "choice(0.1)"}, "max_concurrent": 1, "num_trials": 1}
    with pytest.raises(UserError, match="--include-dashboard=true"):
        run_sweep(parse_sweep(sweep_text(base, tmp_path, **settings)), address="local")


def test_memory_that_ran_out_is_known_by_every_name_it_has():
    for message in (
        "rank 0 failed: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        "Task was killed due to the node running low on memory",
        "ray.exceptions.OutOfMemoryError",
        "terminate called after throwing an instance of 'std::bad_alloc'",
    ):
        assert is_out_of_memory(message)
    assert not is_out_of_memory("rank 1 failed: ActorDiedError: the process was killed")


def start(path, storage):
    """The sweep as a command, with a cluster of its own."""
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "stm",
            "tune",
            "--config",
            str(path),
            "--address=local",
            "--json",
        ],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=(storage / "stderr.log").open("a"),
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_sweep_continues_without_repeating_anything(base, tmp_path):
    path = tmp_path / "killed.yaml"
    path.write_text(
        sweep_text(
            base,
            tmp_path,
            searcher="optuna",
            space={"optim.lr": "loguniform(1e-4, 1e-1)", "data.num_segments": "choice(2, 4)"},
            num_trials=3,
            budget={"epochs": 40},
            max_concurrent=1,
        )
    )
    folder = tmp_path / "killed"

    def taken(trial):
        newest = CheckpointStore(str(folder / f"killed-{trial.trial}")).latest()
        return newest[1].step if newest else 0

    process = start(path, tmp_path)
    deadline = time.monotonic() + 300
    while True:
        found = read_reports(folder / REPORTS)
        if len(found) == 2 and taken(found[1]) >= 10:
            break
        assert process.poll() is None, (tmp_path / "stderr.log").read_text()[-3000:]
        assert time.monotonic() < deadline, "the second trial never trained"
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(3)  # its cluster follows it
    before, committed = read_reports(folder / REPORTS), taken(found[1])
    assert 10 <= committed < 160, "it was to be killed half-way"
    first = (folder / f"killed-{found[0].trial}" / "trial.log").read_text()

    process = start(path, tmp_path)
    out, _ = process.communicate(timeout=500)
    assert process.returncode == 0, (tmp_path / "stderr.log").read_text()[-3000:]
    result = json.loads(out)
    after = read_reports(folder / REPORTS)
    assert [trial.trial for trial in after][:2] == [trial.trial for trial in before]
    assert [trial.settings for trial in after][:2] == [trial.settings for trial in before]
    assert result["trials"] == {"finished": 3}
    assert after[0].restarts == 0
    assert (folder / f"killed-{found[0].trial}" / "trial.log").read_text() == first
    log = (folder / f"killed-{found[1].trial}" / "trial.log").read_text()
    (went_on,) = [line for line in log.splitlines() if line.startswith("continuing at")]
    assert int(went_on.split("(step ")[1].rstrip(")")) >= committed
    runs = children(tmp_path, folder)
    assert sorted(runs) == sorted(trial.trial for trial in after)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_that_is_interrupted_goes_on_and_so_does_a_trial_that_crashes(base, tmp_path):
    """Ctrl-C in the middle of two trials; the same command; then the process of one of them is killed."""
    path = tmp_path / "cut.yaml"
    path.write_text(
        sweep_text(
            base,
            tmp_path,
            searcher="grid",
            space={"optim.lr": "grid(0.001, 0.002)"},
            budget={"epochs": 30},
            max_concurrent=2,
        )
    )
    folder = tmp_path / "cut"

    def wait_for_steps(process, least):
        deadline = time.monotonic() + 200
        while True:
            found = read_reports(folder / REPORTS)
            stores = [CheckpointStore(str(folder / f"cut-{trial.trial}")) for trial in found]
            newest = [store.latest() for store in stores]
            if len(newest) == 2 and all(one and one[1].step >= least for one in newest):
                return [one[1].step for one in newest]
            assert process.poll() is None, (tmp_path / "stderr.log").read_text()[-3000:]
            assert time.monotonic() < deadline, "the trials never trained"
            time.sleep(0.1)

    process = start(path, tmp_path)
    first = wait_for_steps(process, 8)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=100) == 130
    assert "interrupted; the same command continues" in (tmp_path / "stderr.log").read_text()
    assert {run.info.status for run in children(tmp_path, folder).values()} == {"KILLED"}

    process = start(path, tmp_path)
    second = wait_for_steps(process, max(first) + 8)
    assert max(second) < 120, "a trial was to be cut in its middle"
    trials = [
        worker
        for worker in psutil.Process(process.pid).children(recursive=True)
        if worker.name().startswith(("ray::ResourceTr", "ray::Trial"))
        or worker.cmdline()[:1] == ["ray::ResourceTrainable.train"]
    ]
    assert len(trials) == 2
    trials[0].kill()
    out, _ = process.communicate(timeout=300)
    said = (tmp_path / "stderr.log").read_text()
    assert process.returncode == 0, said[-3000:]
    assert json.loads(out)["trials"] == {"finished": 2}
    assert said.count("crashed; it goes on from its last checkpoint") == 1
    for trial in read_reports(folder / REPORTS):
        log = (folder / f"cut-{trial.trial}" / "trial.log").read_text().splitlines()
        went_on = [line for line in log if line.startswith("continuing at")]
        assert 1 <= len(went_on) <= 2, "after Ctrl-C, and one of them after the crash"
    assert {run.info.status for run in children(tmp_path, folder).values()} == {"FINISHED"}

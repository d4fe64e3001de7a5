"""Chaos: what is done to a run in the middle, and that its results do not show it.

`make chaos` writes the table of docs/reliability.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from stm.checkpoint.store import CheckpointStore
from stm.config import TrackingConfig
from tests.chaos import runs
from tests.chaos.runs import same_as_undisturbed

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(3600)]

NUM_TRAIN = 24


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_disturbed_run_is_the_undisturbed_one_bit_for_bit(
    manifests, undisturbed, tmp_path, row, seed
):
    happened, outcome = disturbed(manifests, undisturbed, tmp_path, seed, runs.KILLS)
    assert len(happened) >= 4, f"the run was over too soon: {happened}"
    row("processes of a run are killed", "; ".join(happened), len(happened), outcome)


@pytest.mark.parametrize(
    "seed", [3, 23]
)  # their orders differ, and a run ends before all six have happened
def test_a_run_whose_parts_stop_for_a_minute_is_the_undisturbed_one_bit_for_bit(
    manifests, undisturbed, tmp_path, row, seed
):
    happened, outcome = disturbed(manifests, undisturbed, tmp_path, seed, runs.STOPS)
    assert len(happened) >= 3, f"the run was over too soon: {happened}"
    row("processes of a run are stopped for a minute", "; ".join(happened), len(happened), outcome)


def disturbed(manifests, undisturbed, folder, seed, disturbances):
    """(what happened, what came of it) of a run whose result must be that of the undisturbed one."""
    _, losses, took = undisturbed
    config = runs.config_for(manifests, folder, "hit")
    began = time.monotonic()
    result, happened = runs.run_disturbed(config, folder / "log.txt", seed, disturbances)
    same_as_undisturbed(result, folder / "hit", undisturbed)
    recorded = Counter(
        r["step"]
        for r in map(json.loads, (folder / "hit" / "tracking.jsonl").read_text().splitlines())
        if "train/loss" in r.get("values", {})
    )
    assert set(recorded.values()) == {1}, "each step is recorded once"
    return happened, (
        f"{len(losses)} losses and all weights were equal, bit for bit; the run took {time.monotonic() - began:.0f} s "
        f"instead of {took:.0f} s"
    )


def steps_taken(folder):
    """The steps that count: of each, the lines of the worker group that took it last."""
    lines = [
        json.loads(line)
        for file in (folder / "steps").glob("*.jsonl")
        for line in file.read_text().splitlines()
    ]
    by_step = defaultdict(list)
    for line in lines:
        by_step[line["step"]].append(line)
    counted = {}
    for step, taken in by_step.items():
        group = max(taken, key=lambda line: line["at"])["group"]
        counted[step] = [line for line in taken if line["group"] == group]
    return counted


WHAT_NODES_DO = {
    "lost": "all processes of a node are killed",
    "grown": "a node joins a run that may use one more",
    "preempted": "a node is drained with 10 s of notice, then killed",
    "replaced": "a node's raylet is killed, and another node joins",
}


@pytest.mark.parametrize("scenario", WHAT_NODES_DO)
def test_nodes_come_and_go_and_each_epoch_shows_every_video_once(
    manifests, undisturbed, tmp_path, row, scenario
):
    (tmp_path / "manifests.json").write_text(json.dumps(manifests))
    # A folder of its own, so that no other Ray joins; short, because paths of sockets are.
    sessions = tempfile.mkdtemp(prefix="stm-")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_TMPDIR": sessions}
    for name in ("RAY_ADDRESS",):
        environment.pop(name, None)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "nodes.py"), scenario, str(tmp_path)],
        cwd=runs.ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    shutil.rmtree(sessions, ignore_errors=True)
    said = (tmp_path / "said.txt").read_text() if (tmp_path / "said.txt").exists() else ""
    assert done.returncode == 0, done.stderr[-3000:] + said
    result = json.loads((tmp_path / "result.json").read_text())
    assert "error" not in result, f"{result}\n{said}"
    steps = steps_taken(tmp_path)
    assert sorted(steps) == list(range(1, result["steps"] + 1))
    seen = defaultdict(Counter)
    for taken in steps.values():
        for line in taken:
            seen[line["epoch"]].update(line["videos"])
    assert len(seen) == result["epochs"]
    for epoch, counts in seen.items():
        assert counts == Counter(range(NUM_TRAIN)), f"epoch {epoch}"
    sizes = [line["world_size"] for _, taken in sorted(steps.items()) for line in taken[:1]]
    changes = [size for i, size in enumerate(sizes) if i == 0 or sizes[i - 1] != size]
    if scenario == "replaced":
        assert len({taken[0]["group"] for taken in steps.values()}) == 2, "workers were to be lost"
        same_as_undisturbed(result, tmp_path / "runs" / scenario, undisturbed)
    else:
        assert len(set(changes)) == 2, f"the number of workers was to change: {changes}"
    if scenario == "preempted":
        kept = re.search(r"keeping a checkpoint of step (\d+) now", said)
        assert kept, said
        # No step before the notice was taken twice: the other group began where the checkpoint was.
        lines = [
            json.loads(line)
            for file in (tmp_path / "steps").glob("*.jsonl")
            for line in file.read_text().splitlines()
        ]
        second = max(lines, key=lambda line: line["at"])["group"]
        assert min(line["step"] for line in lines if line["group"] == second) > int(kept[1])
    outcome = f"each of {result['epochs']} epochs showed all {NUM_TRAIN} videos exactly once"
    if scenario == "replaced":
        outcome += ", and all losses and weights were equal, bit for bit"
    row(
        "a node joins" if scenario == "grown" else f"a node is {scenario}",
        f"{WHAT_NODES_DO[scenario]}; workers: {' -> '.join(map(str, changes))}",
        1,
        f"{outcome}; the run took {time.monotonic() - began:.0f} s",
    )


@contextlib.contextmanager
def mlflow_server(folder, port):
    """A real server on loopback, ready to answer."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "server.log").open("a") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            assert server.poll() is None, (folder / "server.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.5)
        yield
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_a_tracking_server_that_is_away_for_a_minute_misses_nothing(manifests, tmp_path, row):
    from mlflow import MlflowClient

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = runs.config_for(manifests, tmp_path, "tracked", epochs=12, workers=1)
    uri = f"http://127.0.0.1:{port}"
    config = replace(config, tracking=TrackingConfig(uri=uri))
    store = CheckpointStore(str(tmp_path / "tracked"))
    with mlflow_server(tmp_path, port):
        process = runs.start(config, tmp_path / "log.txt")
        while not ((found := store.latest()) and found[1].step >= 4):
            assert process.poll() is None, (tmp_path / "log.txt").read_text()[-3000:]
            time.sleep(0.2)
    away_from, took_from = store.latest()[1].step, time.monotonic()
    time.sleep(60)
    finished_before = process.poll() is not None
    reached = store.latest()[1].step
    with mlflow_server(tmp_path, port):
        out, _ = process.communicate(timeout=1800)
        assert process.returncode == 0, (tmp_path / "log.txt").read_text()[-3000:]
        if finished_before:  # it said that the record waits; the same command delivers it
            process = runs.start(config, tmp_path / "log.txt")
            out, _ = process.communicate(timeout=200)
        result = json.loads(out)
        client = MlflowClient(tracking_uri=uri)
        history = client.get_metric_history(result["run_id"], "train/loss")
        status = client.get_run(result["run_id"]).info.status
    assert reached > away_from, "training was to go on meanwhile"
    assert [point.step for point in sorted(history, key=lambda point: point.step)] == list(
        range(1, result["steps"] + 1)
    )
    assert status == "FINISHED"
    row(
        "the MLflow server is down",
        f"it was down for {time.monotonic() - took_from:.0f} s, from step {away_from}",
        1,
        f"meanwhile, training continued to step {reached}; all {result['steps']} steps were recorded, each once",
    )

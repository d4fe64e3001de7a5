"""A user's `on_event`: whatever it does, the run goes on, and what it is told is in order."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from mlflow import MlflowClient

from stm.train import listener
from stm.train.events import Started

STARTED = Started(step=0, epoch=0, world_size=1)


def test_events_arrive_in_order_and_all_of_them_before_the_end():
    seen = []
    with listener.listening(seen.append) as hand_over:
        for step in range(100):
            hand_over(Started(step=step, epoch=0, world_size=1))
    assert [event.step for event in seen] == list(range(100))


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit("no")])
def test_what_it_raises_is_told_once_and_the_next_event_comes(error, caplog):
    seen = []

    def on_event(event):
        seen.append(event)
        raise error

    with listener.listening(on_event) as hand_over:
        hand_over(STARTED)
        hand_over(STARTED)
    assert len(seen) == 2
    (told,) = caplog.messages
    assert told == f"on_event raised {type(error).__name__}: no, on Started; the run goes on"


def test_one_that_hangs_holds_nobody_and_is_told(monkeypatch, caplog):
    monkeypatch.setattr(listener, "PATIENCE_S", 0.2)
    over = threading.Event()
    with listener.listening(lambda event: over.wait()) as hand_over:
        for _ in range(3):
            hand_over(STARTED)
    over.set()
    (told,) = caplog.messages
    assert told == "on_event has not returned for 0.2 s; not handed over: 2 later events"


def test_one_that_is_slow_gets_all_events(monkeypatch, caplog):
    monkeypatch.setattr(listener, "PATIENCE_S", 2.0)
    seen, wait = [], threading.Event()

    def on_event(event):
        wait.wait(0.8)
        seen.append(event)

    with listener.listening(on_event) as hand_over:
        for _ in range(4):
            hand_over(STARTED)
    assert len(seen) == 4
    assert not caplog.messages


# A run on a cluster of its own, whose reserved CPUs nobody else misses.
_KILLED = """
import json, logging, sys
from pathlib import Path
logging.basicConfig(level="WARNING", stream=sys.stderr)
import ray
import stm
from stm import cluster
from stm.data.annotations import read_annotations
from stm.data.index.indexing import index_videos
from stm.data.synthetic import write_videos
from stm.train.events import Controlled

root, at = sys.argv[1:]
cluster.connect("local", num_cpus=4)
annotations = write_videos(Path(root), num_train=80, num_test=0, size=32, num_frames=8)
indexed, _ = index_videos(read_annotations("csv", Path(root), annotations), cross_check=0)
indexed["train"].write(f"{root}/train.parquet")
controllers = []

def on_event(event):
    if isinstance(event, Controlled):
        controllers.append(event.controller)
    if type(event).__name__ == at:
        ray.kill(controllers[-1])

config = stm.Config(
    model=stm.ModelConfig(depth=26, width=16),
    data=stm.DataConfig(train=f"{root}/train.parquet", num_segments=4, size=32, clips_per_task=4),
    optim=stm.OptimConfig(batch_size=1, epochs=3, milestones=[2]),
    train=stm.TrainConfig(
        name="run", storage=root, cpus_per_worker=0.5, threads_per_worker=1, log_every_steps=2
    ),
)
try:
    stm.train(config, on_event=on_event)
    ended = "not at all"
except Exception as error:
    ended = f"{type(error).__name__}: {error}"
print(json.dumps({"ended": ended, "starts": len(controllers)}))
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("at", ["Controlled", "Stepped"])
def test_a_run_whose_controller_is_killed_ends_once_and_says_so(tmp_path, at):
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path), at],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["ended"].startswith("RunEnded: run run was ended from outside; "), result
    assert result["starts"] == 1, "it was not taken for a worker that failed"
    run_id = (tmp_path / "run" / "tracking.run_id").read_text().strip()
    assert MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_run(run_id).info.status == "KILLED"

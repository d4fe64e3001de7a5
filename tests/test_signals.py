"""Signals, sent to real verbs: what is kept, recorded and said, the exit status, and that nothing stays behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import yaml
from mlflow import MlflowClient

from pipelines.cli import verbs
from stm.checkpoint.store import CheckpointStore
from stm.config import Config, DataConfig, ModelConfig, OptimConfig, TrackingConfig, TrainConfig
from stm.data.manifest import Manifest
from tests.chaos.runs import arguments
from tests.heads import listening
from tests.package.untrained import write_checkpoint

ROOT = Path(__file__).parents[1]
MARK = "STM_TEST_COMMAND"


class Command:
    """``stm ARGUMENTS`` in a process group of its own; its stderr goes to a file, and its processes can be found."""

    def __init__(self, folder: Path, *words: str, module: str = "stm") -> None:
        self._mark = uuid.uuid4().hex
        self._stderr = folder / f"{self._mark}.stderr"
        self._shm = set(os.listdir("/dev/shm"))
        with self._stderr.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *words],
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=file,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", MARK: self._mark},
            )

    @property
    def said(self) -> str:
        return self._stderr.read_text()

    def wait_for(self, text: str, timeout_s: float = 900) -> None:
        deadline = time.monotonic() + timeout_s
        while text not in self.said:
            assert self.process.poll() is None, self.said[-3000:]
            assert time.monotonic() < deadline, self.said[-3000:]
            time.sleep(0.02)

    def send_to_all(self, number: int) -> None:
        """As `timeout` and a terminal that closes do."""
        os.killpg(self.process.pid, number)

    def ended(self, timeout_s: float = 400) -> int:
        """Exit status; no process and no shared memory of it may be left."""
        status = self.process.wait(timeout_s)
        # Of a Ray that was killed while it started, agents wait for their node.
        deadline = time.monotonic() + 300
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not left
        assert "Traceback" not in self.said
        return status

    def _left(self) -> list[str]:
        maps, left = "", []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == self._mark:
                    left.append(process.name())
                maps += Path(f"/proc/{process.pid}/maps").read_text()
        return left + [name for name in set(os.listdir("/dev/shm")) - self._shm if name not in maps]


@pytest.fixture(scope="module")
def manifest(ray_cluster, tmp_path_factory):
    """An epoch of 400 steps of one video."""
    from stm.data.annotations import read_annotations
    from stm.data.index.indexing import index_videos
    from stm.data.synthetic import write_videos

    root = tmp_path_factory.mktemp("videos")
    annotations = write_videos(root, num_train=400, num_test=0, size=32, num_frames=8)
    indexed, _ = index_videos(read_annotations("csv", root, annotations), cross_check=0)
    indexed["train"].write(root / "train.parquet")
    return str(root / "train.parquet")


def train(manifest, storage, *words):
    config = Config(
        model=ModelConfig(depth=26, width=16),
        data=DataConfig(train=manifest, num_segments=4, size=32, clips_per_task=4),
        optim=OptimConfig(batch_size=1, epochs=3, milestones=[2]),
        train=TrainConfig(
            name="run",
            storage=str(storage),
            num_workers=1,
            cpus_per_worker=0.5,
            threads_per_worker=1,
            log_every_steps=2,
        ),
        tracking=TrackingConfig(),
    )
    return Command(storage, "train", *arguments(config), "--address=local", *words)


def recorded(storage):
    """MLflow's status of the run."""
    run_id = (storage / "run" / "tracking.run_id").read_text().strip()
    return MlflowClient(f"sqlite:///{storage}/mlflow.db").get_run(run_id).info.status


def kept(storage):
    return CheckpointStore(str(storage / "run")).latest()


# ---------------------------------------------------------------------- training


@pytest.mark.ray
def test_sigterm_to_the_whole_group_keeps_a_checkpoint_of_the_next_step(manifest, tmp_path):
    command = train(manifest, tmp_path)
    command.wait_for("clips/s")
    command.send_to_all(signal.SIGTERM)
    assert command.ended() == 143, command.said[-3000:]
    found = kept(tmp_path)
    assert found is not None
    assert found[1].position.offset > 0, "no epoch had ended: it was asked for"
    assert f"ended by SIGTERM; the same command continues at step {found[1].step}\n" in command.said
    assert recorded(tmp_path) == "KILLED"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGHUP, 129), (signal.SIGTERM, 143)])
def test_a_signal_before_the_first_step_is_recorded(manifest, tmp_path, number, status):
    command = train(manifest, tmp_path)
    command.wait_for("run run: ")
    command.send_to_all(number)
    assert command.ended() == status, command.said[-3000:]
    assert kept(tmp_path) is None
    assert "; no checkpoint was kept: the same command begins anew\n" in command.said
    assert recorded(tmp_path) == "KILLED"


@pytest.mark.ray
@pytest.mark.slow
def test_ctrl_c_however_often_is_130(manifest, tmp_path):
    command = train(manifest, tmp_path)
    command.wait_for("clips/s")
    for _ in range(30):
        if command.process.poll() is None:
            command.send_to_all(signal.SIGINT)
        time.sleep(0.1)
    assert command.ended() == 130, command.said[-3000:]
    assert "interrupted; " in command.said
    assert recorded(tmp_path) == "KILLED"


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_without_a_name_says_how_it_is_continued(manifest, tmp_path):
    command = train(manifest, tmp_path, "--train.name", "null")
    command.wait_for("clips/s")
    command.send_to_all(signal.SIGTERM)
    assert command.ended() == 143
    (meta,) = tmp_path.glob("*/checkpoint-*/meta.json")
    name = meta.parent.parent.name
    assert f"; the same command with --train.name {name} continues at step " in command.said


# ---------------------------------------------------------------------- other verbs


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_verb_that_starts_ray_ends_by_a_signal(manifest, tmp_path, number, status):
    command = Command(
        tmp_path, "prepare", "--manifest", manifest, "--output", str(tmp_path), "--address=local"
    )
    command.wait_for("starting Ray on this machine")
    time.sleep(1.5)
    command.send_to_all(number)
    assert command.ended() == status, command.said[-3000:]
    assert "continues" not in command.said


SHORT = {
    "plan": "reads a few files and no cluster",
    "jobs": "test_jobs.py",
    "submit": "test_jobs.py",
}
"""Verbs that the next test leaves out."""


@pytest.fixture(scope="module")
def waiting(manifest, tmp_path_factory):
    """For each verb: its words, and the line on which it waits for long; all of them join a head that is stopped."""
    folder = tmp_path_factory.mktemp("waiting")
    classes = list(Manifest.read(manifest).classes)
    checkpoint = write_checkpoint(folder / "run" / "checkpoint-00000007", classes=classes)
    small = ["--model.depth=26", "--model.width=16", "--data.num_segments=4", "--data.size=32"]
    base = {
        "model": {"depth": 26, "width": 16},
        "data": {"train": manifest, "val": manifest, "num_segments": 4, "size": 32},
        "train": {"storage": str(folder)},
    }
    sweep = {
        "base": base,
        "space": {"optim.lr": "loguniform(1e-4, 1e-1)"},
        "num_trials": 2,
        "budget": {"epochs": 2},
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    whole = Manifest.read(manifest)
    half_way = len(whole) // 2
    for number in (1, 2, 3):
        (folder / "splits" / f"split{number}").mkdir(parents=True)
        for part, rows in (
            ("train", whole.table.slice(0, half_way - number)),
            ("val", whole.table.slice(half_way - number)),
        ):
            replace(whole, table=rows).write(
                folder / "splits" / f"split{number}" / f"{part}.parquet"
            )
    videos = Path(manifest).parent
    video = str(next(videos.rglob("*.mp4")))
    joins = "joining the Ray cluster at"
    with listening(None) as address:
        at = ["--address", address]
        yield {
            "demo": (["--output", folder / "demo", "--train_videos=8", "--test_videos=8", *at], joins),
            "index": (["--format=list", "--root", videos, "--annotations", videos / "annotations.csv",
                       "--output", folder / "indexed", *at], joins),
            "prepare": (["--manifest", manifest, "--output", folder / "prepared", *at], joins),
            "train": ([f"--data.train={manifest}", *small, f"--train.storage={folder}", *at], joins),
            "splits": (["--manifests", folder / "splits", *small, "--train.name=three",
                        f"--train.storage={folder}", *at], joins),
            "tune": (["--config", folder / "sweep.yaml", "--name=swept", *at], joins),
            "evaluate": (["--checkpoint", checkpoint, "--manifest", manifest, *at], joins),
            "predict": ([video, "--checkpoint", checkpoint, *at], "loading PyTorch"),
            "register": (["--checkpoint", checkpoint, "--name=n", "--tracking", f"sqlite:///{folder}/m.db"], "loading"),
            "serve": (["--checkpoint", checkpoint, *at], joins),
            "explain": ([video, "--checkpoint", checkpoint, "--output", folder / "seen", *at], "loading PyTorch"),
            "export": (["--checkpoint", checkpoint, "--output", folder / "out"], "loading PyTorch"),
            "doctor": (at, "connecting; then"),
            "bench": (["data", "--manifest", manifest, *at], joins),
        }  # fmt: skip


SENT = {
    "SIGTERM": ([signal.SIGTERM], 143),
    "SIGHUP": ([signal.SIGHUP], 129),
    "Ctrl-C": ([signal.SIGINT], 130),
    "Ctrl-C five times": ([signal.SIGINT] * 5, 130),
}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("verb", [verb for verb in verbs() if verb not in SHORT])
def test_every_verb_ends_by_a_signal_before_it_has_ray(waiting, tmp_path, verb):
    words, text = waiting[verb]
    for name, (numbers, status) in SENT.items():
        command = Command(tmp_path, verb, *map(str, words))
        command.wait_for(text)
        for number in numbers:
            with contextlib.suppress(ProcessLookupError):
                command.send_to_all(number)
            time.sleep(0.1)
        assert command.ended() == status, (name, command.said[-3000:])
        last = command.said.splitlines()[-1]
        assert last.startswith(
            f"stm {verb}: {'ended by' if number != signal.SIGINT else 'interrupted'}"
        ), name


# ---------------------------------------------------------------------- the rules

RULES = """
import signal, sys, time
from stm import ending

def keep(seconds):
    print("keeping", file=sys.stderr, flush=True)
    time.sleep(float(sys.argv[1]))
    print("kept", file=sys.stderr, flush=True)

stopped = []

def stop():
    try:
        keep(0.0)
    except KeyboardInterrupt:
        print("given up", file=sys.stderr, flush=True)
    stopped.append(True)
    return True

with ending.by_signals():
    try:
        with ending.stopping(stop) if sys.argv[2:] else ending.keeping(keep):
            print("ready", file=sys.stderr, flush=True)
            while not stopped:
                time.sleep(0.1)
        raise ending.Ended(ending.received())
    except KeyboardInterrupt as error:
        print(ending.told(error), file=sys.stderr, flush=True)
        time.sleep(1)  # a signal in the middle of the end
        print("cleaned", file=sys.stderr, flush=True)
        status = ending.status_of(error)
time.sleep(0.2)
sys.exit(status)
"""


@pytest.fixture
def rules(tmp_path, monkeypatch):
    (tmp_path / "rules.py").write_text(RULES)
    python_path = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{tmp_path}{os.pathsep}{python_path}")

    def start(keep_s, *words):
        command = Command(tmp_path, str(keep_s), *words, module="rules")
        command.wait_for("ready")
        return command

    return start


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_something_is_kept_once_and_the_end_is_not_cut(rules, number, status):
    command = rules(0.0)
    command.process.send_signal(number)
    command.wait_for("ended by")
    command.process.send_signal(signal.SIGTERM)
    command.process.send_signal(signal.SIGINT)
    assert command.ended() == status
    name = signal.Signals(number).name
    assert command.said.split("\n") == [
        "ready",
        "keeping",
        "kept",
        f"ended by {name}",
        "cleaned",
        "",
    ]


def test_a_second_signal_gives_up_what_is_being_kept(rules):
    command = rules(50.0)
    command.process.send_signal(signal.SIGTERM)
    command.wait_for("keeping")
    command.process.send_signal(signal.SIGINT)
    assert command.ended() == 143, "the first signal counts"
    assert command.said.split("\n") == ["ready", "keeping", "ended by SIGTERM", "cleaned", ""]


def test_a_second_signal_gives_up_what_an_orderly_stop_waits_for(rules):
    command = rules(50.0, "stop")
    command.process.send_signal(signal.SIGTERM)
    command.wait_for("keeping")
    command.process.send_signal(signal.SIGTERM)
    assert command.ended() == 143
    said = ["ready", "keeping", "given up", "ended by SIGTERM", "cleaned", ""]
    assert command.said.split("\n") == said


def test_ctrl_c_keeps_nothing(rules):
    command = rules(50.0)
    command.process.send_signal(signal.SIGINT)
    assert command.ended() == 130
    assert command.said.split("\n") == ["ready", "interrupted", "cleaned", ""]


# ---------------------------------------------------------------------- Slurm

FAKES = {
    "python": 'case "$*" in *getsockname*) echo 127.0.0.1 6001 6002 ;; *) echo 1 ;; esac',
    "ray": 'case "$1" in start) echo $$ > "$SAW.ray"; exec sleep 600 ;; esac',
    "stm": 'trap "sleep 1; exit 143" TERM; echo "$*" > "$SAW"; for i in $(seq 600); do sleep 0.1; done',
}


def test_the_slurm_script_hands_its_signal_to_the_run_and_waits_for_it(tmp_path):
    """Slurm is not here: its variables, and three small scripts for Python, Ray and stm, stand for it."""
    for name, body in FAKES.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    saw, number = tmp_path / "saw", f"test-{os.getpid()}"
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin", "VIRTUAL_ENV": "none", "SAW": str(saw), "SLURM_JOB_ID": number,
        "SLURM_JOB_NUM_NODES": "1", "SLURM_CPUS_ON_NODE": "2",
    }  # fmt: skip
    job = subprocess.Popen(
        ["bash", "clusters/slurm.sh", "--config", "two words"], cwd=ROOT, env=environment
    )
    deadline = time.monotonic() + 60
    while not saw.exists() or not saw.read_text():
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert saw.read_text() == "train --address 127.0.0.1:6001 --config two words\n"
    assert Path(f"/tmp/stm-{number}").stat().st_mode & 0o777 == 0o700
    job.send_signal(signal.SIGTERM)
    assert job.wait(60) == 143
    assert not Path(f"/tmp/stm-{number}").exists(), "the job's folder is taken away"
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path(f"{saw}.ray").read_text()), 0)
    assert "#SBATCH --signal=B:TERM@120\n" in (ROOT / "clusters" / "slurm.sh").read_text()


# ---------------------------------------------------------------------- where an exception would be lost

SWALLOWED = {
    "del": """
class Odd:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
def provoke():
    Odd()
""",
    "weakref": """
import weakref
class Odd: pass
def gone(reference):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
def provoke():
    global kept
    odd = Odd()
    kept = weakref.ref(odd, gone)
""",
    "logging": """
import logging
class Odd(logging.Handler):
    def emit(self, record):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        print("whole line", file=sys.stderr, flush=True)
logging.getLogger("odd").addHandler(Odd())
def provoke():
    logging.getLogger("odd").warning("x")
""",
    "fork": """
def both():
    os.killpg(0, signal.SIGTERM)
    time.sleep(0.1)
os.register_at_fork(after_in_child=both)
def provoke():
    if os.fork() == 0:
        print("Traceback of a child that lives on", file=sys.stderr, flush=True)
        os._exit(0)
""",
}
AROUND = """
import os, signal, sys, time
from stm import ending
{code}
with ending.by_signals():
    try:
        print("ready", file=sys.stderr, flush=True)
        provoke()
        for _ in range(600):
            time.sleep(0.1)
        print("Traceback: the signal was lost", file=sys.stderr, flush=True)
    except KeyboardInterrupt as error:
        print(ending.told(error), file=sys.stderr, flush=True)
        status = ending.status_of(error)
sys.exit(status)
"""


@pytest.mark.parametrize("where", SWALLOWED)
def test_a_signal_is_not_lost_where_python_drops_exceptions(where, tmp_path, monkeypatch):
    (tmp_path / "odd.py").write_text(AROUND.format(code=SWALLOWED[where]))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{tmp_path}")
    command = Command(tmp_path, module="odd")
    assert command.ended() == 143, command.said
    assert "Exception ignored" not in command.said
    assert command.said.endswith("ended by SIGTERM\n")
    if where == "logging":
        assert "whole line" in command.said


IN_RAYS_START = """
import ray
from stm import cluster
core = ray._raylet.CoreWorker
def made(*words, **named):
    try:
        return core(*words, **named)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)  # Ray's handler is there, and ours not yet again
        time.sleep(0.1)
ray._raylet.CoreWorker = made
def provoke():
    cluster.connect("local", num_cpus=1)
"""


@pytest.mark.ray
@pytest.mark.long
def test_a_signal_in_the_middle_of_rays_start_ends_as_any_other(tmp_path, monkeypatch):
    (tmp_path / "odd.py").write_text(AROUND.format(code=IN_RAYS_START))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{tmp_path}")
    command = Command(tmp_path, module="odd")
    assert command.ended() == 143, command.said
    assert "received at time" not in command.said

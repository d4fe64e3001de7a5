"""Small training runs to disturb: long enough to be hit in the middle, and exact enough to compare."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from stm.config import Config, DataConfig, ModelConfig, OptimConfig, TrackingConfig, TrainConfig

ROOT = Path(__file__).parents[2]


def make_manifests(root: Path) -> dict[str, str]:
    """24 videos to train on, 8 to validate on."""
    from stm.data.annotations import read_annotations
    from stm.data.index.indexing import index_videos
    from stm.data.synthetic import write_videos

    annotations = write_videos(root, num_train=24, num_test=8, size=64, num_frames=12)
    indexed, _ = index_videos(read_annotations("csv", root, annotations), cross_check=0)
    for split, manifest in indexed.items():
        manifest.write(root / f"{split}.parquet")
    return {split: str(root / f"{split}.parquet") for split in indexed}


def config_for(
    manifests: dict[str, str],
    storage: Path,
    name: str,
    *,
    workers: int = 2,
    epochs: int = 6,
    **train_settings: Any,
) -> Config:
    """Six steps an epoch of about a second each on two cores; dropout, averaging and warm-up are on."""
    settings = {"cpus_per_worker": 0.5, "checkpoint_every_steps": 2, "log_every_steps": 1}
    return Config(
        model=ModelConfig(depth=26, width=32, dropout=0.5),
        data=DataConfig(
            train=manifests["train"],
            val=manifests["val"],
            num_segments=8,
            size=96,
            clips_per_task=4,
        ),
        optim=OptimConfig(
            batch_size=4,
            lr=0.01,
            epochs=epochs,
            milestones=[3],
            warmup_epochs=0.5,
            ema_decay=0.9,
            mixup=0.2,
        ),
        train=TrainConfig(
            name=name,
            storage=str(storage),
            num_workers=workers,
            threads_per_worker=1,
            max_failures=-1,
            collective_timeout_s=20.0,
            val_every_epochs=2,
            **{**settings, **train_settings},
        ),
        tracking=TrackingConfig(),
    )


def arguments(config: Config) -> list[str]:
    """The command line of a config."""
    return [
        f"--{section}.{key}={json.dumps(value) if not isinstance(value, str) else value}"
        for section, settings in config.to_dict().items()
        for key, value in settings.items()
        if value is not None
    ]


def start(config: Config, log: Path) -> subprocess.Popen[str]:
    """`stm train` in a process of its own, with a cluster of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "stm", "train", *arguments(config), "--address=local", "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=log.open("a"),
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


DISTURBANCES = ("kill a worker", "kill the driver", "kill a decoder", "freeze a worker")

_VICTIMS = {
    "kill a worker": ("RayTrainWorker", signal.SIGKILL),
    "kill a decoder": ("decode_shares", signal.SIGKILL),
    "freeze a worker": ("RayTrainWorker", signal.SIGSTOP),
}


def disturb(process: subprocess.Popen[str], what: str, draw: random.Random) -> bool:
    """Do it; False where there is nothing of that kind at the moment."""
    import psutil

    if what == "kill the driver":
        process.kill()
        process.wait()
        return True
    name, number = _VICTIMS[what]
    victims = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if name in " ".join(child.cmdline()):
                victims.append(child)
        except psutil.Error:
            continue
    if not victims:
        return False
    draw.choice(sorted(victims, key=lambda child: child.pid)).send_signal(number)
    return True


def run_disturbed(
    config: Config, log: Path, seed: int, timeout_s: float = 420.0
) -> tuple[dict[str, Any], list[str]]:
    """Train to the end while something happens at random moments; returns the result and what happened.

    Each of the four kinds happens once, in a random order, after a checkpoint more than at the one before was kept.
    """
    from stm.checkpoint.store import CheckpointStore

    draw = random.Random(seed)
    plan = draw.sample(DISTURBANCES, k=len(DISTURBANCES))
    store = CheckpointStore(f"{config.train.storage}/{config.train.name}")
    happened: list[str] = []
    process, deadline, step = start(config, log), time.monotonic() + timeout_s, 0
    while time.monotonic() < deadline:
        time.sleep(draw.uniform(0.1, 1.0))
        if process.poll() is not None:
            assert process.stdout is not None
            assert process.returncode == 0, log.read_text()[-3000:]
            return json.loads(process.stdout.read()), happened
        found = store.latest()
        if plan and found and found[1].step > step:
            what = next((each for each in plan if disturb(process, each, draw)), None)
            if what is None:
                continue
            step = found[1].step
            happened.append(f"{what} after step {step}")
            plan.remove(what)
            if what == "kill the driver":
                process = start(config, log)
    process.kill()
    raise AssertionError(f"not done in {timeout_s:.0f} s; {happened}; {log.read_text()[-3000:]}")

"""Small training runs to disturb: long enough to be hit in the middle, and exact enough to compare."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from stm.config import Config, DataConfig, ModelConfig, OptimConfig, TrackingConfig, TrainConfig

ROOT = Path(__file__).parents[2]


def make_manifests(root: Path) -> dict[str, str]:
    """24 videos to train on, 8 to validate on."""
    from stm.data.annotations import read_annotations
    from stm.data.index.indexing import index_videos
    from stm.data.synthetic import write_videos

    annotations = write_videos(root, num_train=24, num_test=8, size=64, num_frames=12)
    listed = read_annotations("csv", root, annotations)
    indexed, _ = index_videos(listed, root=root, cross_check=0)
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
    settings = {
        "cpus_per_worker": 0.5,
        "checkpoint_every_steps": 2,
        "log_every_steps": 1,
        "max_failures": -1,
    }
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


def start(
    config: Config, log: Path, before: Sequence[str] = (), **environment: str
) -> subprocess.Popen[str]:
    """`stm train` in a process of its own, with a cluster of its own; ``before`` stands before the command."""
    return subprocess.Popen(
        [
            *before,
            sys.executable,
            "-m",
            "stm",
            "train",
            *arguments(config),
            "--address=local",
            "--json",
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=log.open("a"),
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


VICTIMS = {
    "the driver": None,
    "a worker": "RayTrainWorker",
    "a decoder": "decode_shares",
    "the progress process": "ray::_Board",
    "the raylet": "/raylet/raylet",
    "the GCS": "/gcs_server",
}
"""Processes of a training run, and what is in their command lines."""


@dataclass(frozen=True)
class Disturbance:
    """A victim is killed, or stopped for so many seconds (``math.inf``: for good)."""

    victim: str
    stopped_s: float = 0.0

    def __str__(self) -> str:
        if not self.stopped_s:
            return f"kill {self.victim}"
        return f"stop {self.victim}" + (
            "" if self.stopped_s == math.inf else f" for {self.stopped_s:g} s"
        )

    def befalls(self, process: subprocess.Popen[str], draw: random.Random) -> bool:
        """Do it; False where there is nothing of that kind at the moment."""
        chosen = _find(process, self.victim, draw)
        if chosen is None:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):  # what is silent may be ended meanwhile
            if not self.stopped_s:
                chosen.kill()
            else:
                chosen.suspend()
                if self.stopped_s < math.inf:
                    time.sleep(self.stopped_s)
                    chosen.resume()
        return True


def _find(
    process: subprocess.Popen[str], victim: str, draw: random.Random
) -> psutil.Process | None:
    name, driver = VICTIMS[victim], psutil.Process(process.pid)
    if name is None:
        return driver
    found = []
    for child in driver.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if name in " ".join(child.cmdline()):
                found.append(child)
    return draw.choice(sorted(found, key=lambda child: child.pid)) if found else None


KILLS = (
    *(Disturbance(victim) for victim in VICTIMS if victim != "the GCS"),
    Disturbance("a worker", math.inf),
)
STOPS = tuple(Disturbance(victim, 60.0) for victim in VICTIMS)


def run_disturbed(
    config: Config,
    log: Path,
    seed: int,
    disturbances: Sequence[Disturbance] = KILLS,
    timeout_s: float = 3000.0,
) -> tuple[dict[str, Any], list[str]]:
    """Train to the end while something happens at random moments; returns the result and what happened.

    Each of ``disturbances`` happens once, in a random order, after a checkpoint more than at the one before was kept.
    Where it ends the command, which must be with a message and no traceback, the same command is given again.
    """
    from stm.checkpoint.store import CheckpointStore

    draw = random.Random(seed)
    plan = draw.sample(disturbances, k=len(disturbances))
    store = CheckpointStore(f"{config.train.storage}/{config.train.name}")
    happened: list[str] = []
    process, deadline, step = start(config, log), time.monotonic() + timeout_s, 0
    while time.monotonic() < deadline:
        time.sleep(draw.uniform(0.1, 1.0))
        if process.poll() is not None:
            assert process.stdout is not None
            said = log.read_text()
            assert "Traceback" not in said, said[-5000:]
            if process.returncode == 0:
                return json.loads(process.stdout.read()), happened
            assert happened, said[-3000:]
            assert not happened[-1].endswith(")"), f"ended again by itself: {said[-3000:]}"
            happened[-1] += f" (status {process.returncode})"
            process = start(config, log)
        found = store.latest()
        if plan and found and found[1].step > step:
            what = next((each for each in plan if each.befalls(process, draw)), None)
            if what is None:
                continue
            step = found[1].step
            happened.append(f"{what} after step {step}")
            plan.remove(what)
    process.kill()
    raise AssertionError(f"not done in {timeout_s:.0f} s; {happened}; {log.read_text()[-3000:]}")


def same_as_undisturbed(
    result: dict[str, Any], run: Path, undisturbed: tuple[dict[str, Any], dict[int, float], float]
) -> None:
    """A run's result, losses and weights are those of the undisturbed one, bit for bit."""
    import torch

    from stm.checkpoint import format as checkpoints
    from stm.spool import series

    whole, losses, _ = undisturbed
    assert result["steps"] == whole["steps"]
    assert result["val_top1"] == whole["val_top1"]
    assert series(run / "tracking.jsonl", "train/loss") == losses
    ours, theirs = (checkpoints.read_weights(r["last_checkpoint"]) for r in (result, whole))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)

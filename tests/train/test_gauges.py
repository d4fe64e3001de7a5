"""What Prometheus gets of a run: read where it would read it, on the node's port for metrics."""

from __future__ import annotations

import contextlib
import logging
import re
import time
import urllib.request

import pytest

from stm.events import EpochEnded, Started, Stepped
from stm.log import ROOT
from stm.tracking import Tracker
from stm.train import gauges
from stm.train.gauges import NAMES, Gauges
from stm.train.recorder import Recorder

STEPPED = Stepped(
    step=12, epoch=0, step_in_epoch=12, steps_per_epoch=20, loss=0.5, mean_loss=0.75, lr=0.01,
    clips_per_s=31.5, wait_share=0.25, memory_bytes=2**30, unreadable=3,
)  # fmt: skip
METRICS = {"val_loss": 1.5, "val_top1": 0.625, "val_top5": 0.875, "val_num_videos": 8.0}


def scraped(run: str) -> dict[str, float]:
    """The values of the gauges of ``run``, once Ray exports all of them (it does every 10 s)."""
    import ray

    node = next(node for node in ray.nodes() if node["Alive"])
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    line = re.compile(rf'^ray_(stm_train_\w+){{.*run="{run}".*}} (\S+)$', re.MULTILINE)
    found: dict[str, float] = {}
    for _ in range(240):
        with (
            contextlib.suppress(OSError),  # Ray's agent is not up yet
            urllib.request.urlopen(url, timeout=30) as answer,
        ):
            found = {name: float(value) for name, value in line.findall(answer.read().decode())}
        if found.keys() == NAMES.keys():
            break
        time.sleep(0.5)
    return found


@pytest.mark.long
def test_prometheus_reads_the_figures_of_a_run_from_rays_port(ray_cluster, tmp_path):
    recorder = Recorder(Tracker("sqlite:///unused.db", None, tmp_path / "spool.jsonl"), "first")
    for event in (
        Started(step=10, epoch=0, world_size=2),
        STEPPED,
        EpochEnded(epoch=1, epochs=5),
        Started(step=12, epoch=1, world_size=4),  # as after the loss of a worker
    ):
        recorder.handle(event)
    recorder.validation(12, METRICS)
    assert scraped("first") == {
        "stm_train_workers": 4, "stm_train_starts": 2, "stm_train_step": 12, "stm_train_epochs": 1,
        "stm_train_loss": 0.75, "stm_train_learning_rate": 0.01, "stm_train_clips_per_s": 31.5,
        "stm_train_data_wait_share": 0.25, "stm_train_unreadable_videos": 3,
        "stm_train_gpu_memory_bytes": 2**30, "stm_train_val_loss": 1.5,
        "stm_train_val_top1": 0.625, "stm_train_val_top5": 0.875,
    }  # fmt: skip


def test_a_gauge_that_cannot_be_set_is_told_once_and_ends_nothing(monkeypatch, caplog):
    monkeypatch.setattr(gauges, "NAMES", {**NAMES, "stm_train_loss": None})  # Ray wants a text
    caplog.set_level(logging.WARNING, logger=ROOT.name)
    shown = Gauges("first")
    shown.see(STEPPED)
    shown.see(STEPPED)
    assert [record.message[:40] for record in caplog.records] == [
        "Prometheus gets no more figures of this "
    ]

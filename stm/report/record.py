"""The record of a training: curves by step and speed by time, from the run's spool, which may be incomplete.

For a run without a record (``--tracking.uri none``), the steps in the checkpoint are used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stm import spool
from stm.checkpoint import format as checkpoints

_PAUSE_S = 120.0
"""A gap between two records of speed that is longer than this, and 20 times the median, is a pause of training."""


@dataclass(frozen=True)
class Series:
    """Values ``y`` at rising ``x``, which are steps or minutes."""

    x: np.ndarray
    y: np.ndarray

    def __bool__(self) -> bool:
        return len(self.x) > 0


@dataclass(frozen=True)
class TrainingRecord:
    """The curves of a run; empty if nothing was recorded."""

    curves: dict[str, Series] = field(default_factory=dict)
    """By step: train/loss, train/top1, train/lr, val_top1, val_top5, val_loss."""
    speed: dict[str, Series] = field(default_factory=dict)
    """By minutes of training, without pauses: clips_per_s, data_wait_share."""
    restarts: list[float] = field(default_factory=list)
    """Minutes of training at which there was a pause."""
    complete: bool = True
    """False if only the steps in the checkpoint are known."""


def read_record(run_folder: Path, checkpoint: str) -> TrainingRecord:
    """Read the spool in the driver's ``run_folder`` or, without one, the history of the checkpoint."""
    lines = spool.metrics(run_folder / spool.NAME)
    if lines:
        return TrainingRecord(_by_step(lines), *_by_time(lines))
    try:
        history = checkpoints.read_history(checkpoint)
    except (OSError, ValueError):
        return TrainingRecord(complete=False)
    lines = [
        {
            "step": row["step"],
            "values": {f"train/{name}": row[name] for name in ("loss", "top1", "lr")},
        }
        for row in history
        if "loss" in row
    ]
    lines += [{"step": row["step"], "values": row["epoch"]} for row in history if "epoch" in row]
    return TrainingRecord(_by_step(lines), complete=False)


def _by_step(lines: list[dict[str, Any]]) -> dict[str, Series]:
    """Return curves by step; a repeated step has its last value."""
    curves: dict[str, dict[int, float]] = {}
    for line in lines:
        for name, value in line["values"].items():
            if name.startswith(("train/", "val_")) and np.isfinite(value):
                curves.setdefault(name, {})[line["step"]] = value
    return {name: _series(sorted(points.items())) for name, points in curves.items()}


def _speed(line: dict[str, Any]) -> dict[str, float]:
    """Return the speeds in a record; in runs of earlier versions their group is "speed"."""
    return {
        name.rpartition("/")[2]: value
        for name, value in line["values"].items()
        if name.startswith(("train_speed/", "speed/"))
    }


def _by_time(lines: list[dict[str, Any]]) -> tuple[dict[str, Series], list[float]]:
    """Return the speed by minutes since the first record, and the minutes of pauses."""
    lines = [line for line in lines if "time_ms" in line and "clips_per_s" in _speed(line)]
    lines.sort(key=lambda line: line["time_ms"])
    if not lines:
        return {}, []
    gaps = np.diff([line["time_ms"] / 1000 for line in lines])
    usual = float(np.median(gaps)) if len(gaps) else 0.0
    is_pause = gaps > max(_PAUSE_S, 20 * usual)
    minutes = np.concatenate([[0.0], np.cumsum(np.where(is_pause, usual, gaps))]) / 60
    restarts = minutes[1:][is_pause].tolist()
    speed = {}
    for name in ("clips_per_s", "data_wait_share"):
        points = [
            (minute, _speed(line)[name])
            for minute, line in zip(minutes.tolist(), lines, strict=True)
            if np.isfinite(_speed(line).get(name, np.nan))
        ]
        speed[name] = _series(points)
    return speed, restarts


def _series(points: list[tuple[Any, float]]) -> Series:
    return Series(np.array([x for x, _ in points]), np.array([y for _, y in points]))

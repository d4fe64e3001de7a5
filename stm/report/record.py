"""What a run recorded of its training: curves by step, speed by time. Read from the run's spool, whole or partly there.

A run without a record (``--tracking.uri none``) still has the last steps in its checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stm import spool
from stm.checkpoint import format as checkpoints

_PAUSE_S = 120.0
"""A longer silence between two lines of speed, twenty times the usual one, is a time without training."""


@dataclass(frozen=True)
class Series:
    """Values at rising places: steps, or minutes."""

    x: np.ndarray
    y: np.ndarray

    def __bool__(self) -> bool:
        return len(self.x) > 0


@dataclass(frozen=True)
class TrainingRecord:
    """Empty where nothing was recorded."""

    curves: dict[str, Series] = field(default_factory=dict)
    """By step: train/loss, train/top1, train/lr, val_top1, val_top5, val_loss."""
    speed: dict[str, Series] = field(default_factory=dict)
    """By minutes of training, pauses left out: clips_per_s, data_wait_share."""
    restarts: list[float] = field(default_factory=list)
    """Minutes at which there was a pause."""
    complete: bool = True
    """False where the record is only that of the last checkpoint."""


def read_record(run_folder: Path, checkpoint: str) -> TrainingRecord:
    """The record of the run whose driver keeps its files in ``run_folder``; of the checkpoint alone without a spool."""
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
    """A step that was repeated counts once, with its last value."""
    curves: dict[str, dict[int, float]] = {}
    for line in lines:
        for name, value in line["values"].items():
            if name.startswith(("train/", "val_")) and np.isfinite(value):
                curves.setdefault(name, {})[line["step"]] = value
    return {name: _series(sorted(points.items())) for name, points in curves.items()}


def _by_time(lines: list[dict[str, Any]]) -> tuple[dict[str, Series], list[float]]:
    """Speed by minutes since its first line, and where pauses were."""
    lines = [line for line in lines if "speed/clips_per_s" in line["values"] and "time_ms" in line]
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
            (minute, line["values"][f"speed/{name}"])
            for minute, line in zip(minutes.tolist(), lines, strict=True)
            if np.isfinite(line["values"].get(f"speed/{name}", np.nan))
        ]
        speed[name] = _series(points)
    return speed, restarts


def _series(points: list[tuple[Any, float]]) -> Series:
    return Series(np.array([x for x, _ in points]), np.array([y for _, y in points]))

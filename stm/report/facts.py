"""Everything a report speaks of, gathered once: what was measured, by which network, on which videos."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from stm.checkpoint.format import MODEL, Meta
from stm.data.manifest import Manifest
from stm.report.calibration import Calibration, calibrate
from stm.report.confusions import seriate
from stm.report.health import Health, inspect
from stm.report.intervals import Interval, mean_of_shares, wilson
from stm.report.record import TrainingRecord
from stm.report.time_use import TimeUse
from stm.scoring.inference import Scores
from stm.scoring.metrics import Metrics
from stm.storage import join, read_blocks


@dataclass(frozen=True)
class Facts:
    """One evaluation."""

    protocol: str
    num_views: int
    num_segments: int
    size: int
    command: str
    """What repeats it."""
    seconds: float
    """Spent on scoring."""
    checkpoint: str
    meta: Meta
    model_fingerprint: str
    """sha256 (hex) of ``model.safetensors``."""
    manifest_path: str
    manifest: Manifest
    """Its labels are the network's."""
    scores: Scores
    metrics: Metrics
    record: TrainingRecord = field(default_factory=TrainingRecord)
    versions: dict[str, str] = field(default_factory=dict)
    """Of the libraries that measured; those that trained are in ``meta``."""
    manifest_fingerprint: str = ""
    """Of the manifest as it was read, before its labels became the network's; "" is that of ``manifest``."""
    which: str = "named"
    """``best`` or ``last`` of its run, or ``named`` itself."""
    flattered: str | None = None
    """Why the figures flatter, where the checkpoint was chosen on these videos."""
    time_use: TimeUse | None = None
    """None where only clips as played were measured."""
    pairs_from: str = "found from the names of classes"
    """Where the pairs of ``time_use`` are from."""
    when: str = ""
    """UTC, such as 2026-11-22 19:30."""

    @property
    def classes(self) -> list[str]:
        return list(self.manifest.classes)

    @property
    def run(self) -> str:
        """Name of the run that trained the network."""
        return str(self.meta.config.get("train", {}).get("name") or "network")

    @property
    def num_readable(self) -> int:
        return self.metrics.num_videos - self.metrics.unreadable

    @cached_property
    def labels_N(self) -> np.ndarray:
        return self.manifest.table["label"].to_numpy().astype(np.int64)

    @cached_property
    def order(self) -> np.ndarray:
        """Of the classes in the confusion matrix."""
        return seriate(self.metrics.confusion)

    @cached_property
    def correct_per_class(self) -> list[int]:
        counts = zip(self.metrics.per_class, self.metrics.class_counts, strict=True)
        return [round((accuracy or 0.0) * count) for accuracy, count in counts]

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Of top1, top5 and mean_class_accuracy."""
        metrics, total = self.metrics, self.metrics.num_videos
        return {
            "top1": wilson(round(metrics.top1 * total), total),
            "top5": wilson(round(metrics.top5 * total), total),
            "mean_class_accuracy": mean_of_shares(self.correct_per_class, metrics.class_counts),
        }

    @cached_property
    def calibration(self) -> Calibration | None:
        """Of the readable videos."""
        readable = self.scores.readable_N
        scores = self.scores.scores_NK[readable]
        if not len(scores):
            return None
        return calibrate(scores.max(1), scores.argmax(1) == self.labels_N[readable])

    @cached_property
    def health(self) -> Health:
        return inspect(self.manifest)


def fingerprint_of(checkpoint: str) -> str:
    """sha256 (hex) of the weights' file, as ``sha256sum`` prints it."""
    digest = hashlib.sha256()
    for block in read_blocks(join(checkpoint, MODEL)):
        digest.update(block)
    return digest.hexdigest()

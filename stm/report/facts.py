"""All data of a report: the measurement, the network, and the videos."""

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
    """Command that repeats it."""
    seconds: float
    """Time of scoring."""
    checkpoint: str
    meta: Meta
    model_fingerprint: str
    """sha256 (hex) of ``model.safetensors``."""
    manifest_path: str
    manifest: Manifest
    """The manifest with the labels of the network."""
    scores: Scores
    metrics: Metrics
    record: TrainingRecord = field(default_factory=TrainingRecord)
    versions: dict[str, str] = field(default_factory=dict)
    """Libraries of the evaluation; those of the training are in ``meta``."""
    manifest_fingerprint: str = ""
    """Fingerprint of the manifest before its labels were changed to the network's; "" means that of ``manifest``."""
    which: str = "named"
    """``best`` or ``last`` of its run, or ``named`` if the user named the checkpoint itself."""
    flattered: str | None = None
    """Why the figures are too high, if the checkpoint was chosen on these videos."""
    time_use: TimeUse | None = None
    """None if only clips as played were measured."""
    pairs_from: str = "found from the names of classes"
    """Source of the pairs of ``time_use``."""
    when: str = ""
    """Time of the evaluation in UTC, such as 2026-11-22 19:30."""

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
        """Order of the classes in the confusion matrix, int64 [K]."""
        return seriate(self.metrics.confusion)

    @cached_property
    def correct_per_class(self) -> list[int]:
        counts = zip(self.metrics.per_class, self.metrics.class_counts, strict=True)
        return [round((accuracy or 0.0) * count) for accuracy, count in counts]

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """95 % intervals of top1, top5 and mean_class_accuracy."""
        metrics, total = self.metrics, self.metrics.num_videos
        return {
            "top1": wilson(round(metrics.top1 * total), total),
            "top5": wilson(round(metrics.top5 * total), total),
            "mean_class_accuracy": mean_of_shares(self.correct_per_class, metrics.class_counts),
        }

    @cached_property
    def calibration(self) -> Calibration | None:
        """Calibration on the readable videos; None if there are none."""
        readable = self.scores.readable_N
        scores = self.scores.scores_NK[readable]
        if not len(scores):
            return None
        return calibrate(scores.max(1), scores.argmax(1) == self.labels_N[readable])

    @cached_property
    def health(self) -> Health:
        return inspect(self.manifest)


def fingerprint_of(checkpoint: str) -> str:
    """Return the sha256 (hex) of the file of weights, as ``sha256sum`` prints it."""
    digest = hashlib.sha256()
    for block in read_blocks(join(checkpoint, MODEL)):
        digest.update(block)
    return digest.hexdigest()

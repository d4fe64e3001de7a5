"""What the verbs return: dataclasses that also read like the ``--json`` object of the verb, key by key.

result = stm.train(config)
result.val_top1, result["val_top1"], result.as_dict()
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True, eq=False)
class Result(Mapping[str, Any]):
    """Equal to any mapping with the same keys and values."""

    def as_dict(self) -> dict[str, Any]:
        """Plain dicts and lists, as ``--json`` prints them."""
        return {name: _plain(value) for name, value in self.items()}

    def __getitem__(self, name: str) -> Any:
        if name not in self._names():
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def _names(self) -> list[str]:
        return [field.name for field in fields(self)]


def _plain(value: Any) -> Any:
    if isinstance(value, Result):
        return value.as_dict()
    return [_plain(each) for each in value] if isinstance(value, list) else value


@dataclass(frozen=True, kw_only=True, eq=False)
class IndexResult(Result):
    """The result of ``stm index``."""

    manifests: dict[str, str]
    """Path of each split's manifest."""
    num_videos: dict[str, int]
    """By split, good and bad."""
    bad: dict[str, int]
    """By split: those that cannot be used."""
    classes: int
    dataset: str
    fingerprints: dict[str, str]
    """By split."""
    notes: list[str]
    """How the annotations were read, if they can be read in more than one way."""
    warnings: list[str]
    """What may be wrong with the annotations."""
    summary: dict[str, Any]
    """As in ``stm.data.index.indexing.Summary``."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainResult(Result):
    """Of ``stm train``."""

    run: str
    run_id: str | None
    """Of MLflow; None where nothing is recorded."""
    checkpoint: str
    """The best checkpoint by validation, or else the last one."""
    last_checkpoint: str
    steps: int
    epochs: int
    best_epoch: float | None
    """Of ``checkpoint``, as the three below; None where it was not validated."""
    val_top1: float | None
    val_top5: float | None
    val_num_videos: float | None
    """Every video of the manifest: one that cannot be read counts as wrong."""
    last_val_top1: float | None = None
    """Of ``last_checkpoint``; None where it was not validated."""
    test_list: str | None = None
    """The data set whose published test list ``checkpoint`` was chosen on, as that has no validation list."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluateResult(Result):
    """Of ``stm evaluate``."""

    protocol: str
    checkpoint: str
    manifest: str
    num_videos: int
    """Every video of the manifest: one that cannot be read counts as wrong."""
    unreadable: int
    top1: float
    top5: float
    mean_class_accuracy: float
    """Mean over the classes that occur."""
    per_class: dict[str, float | None]
    """Top-1 by class; None where it does not occur."""
    class_counts: dict[str, int]
    failures: list[dict[str, str]]
    """video_id, path, reason and detail of each video that could not be read."""
    files: dict[str, str]
    """The files that were written, by kind: scores, confusion, per_class, report, ... (docs/reports.md)."""
    frames: dict[str, Any] | None = None
    """The results for other orders of frames (docs/reports.md); None if only clips as played were measured."""
    taken: dict[str, Any] | None = None
    """Which checkpoint it is: ``which`` (best or last of a run directory, or named), ``step`` and ``epoch``."""
    flattered: str | None = None
    """Why the figures are too high, if the checkpoint was chosen on these videos."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction(Result):
    """The likeliest classes of one video. What is None is left out of ``as_dict()``."""

    path: str | None = None
    """None for a clip that was given as an array."""
    top5: list[dict[str, Any]] | None = None
    """``{"class": name, "score": softmax}``, best first; None where the video cannot be read."""
    error: str | None = None
    """Why the video cannot be read."""

    @property
    def name(self) -> str | None:
        """The likeliest class."""
        return self.top5[0]["class"] if self.top5 else None

    def _names(self) -> list[str]:
        return [name for name in super()._names() if getattr(self, name) is not None]


@dataclass(frozen=True, kw_only=True, eq=False)
class PredictResult(Result):
    """Of ``stm predict``."""

    checkpoint: str
    num_videos: int
    unreadable: int
    videos: list[Prediction]
    """In the order found; empty where they were written to ``output``."""
    output: str | None
    taken: dict[str, Any] | None = None
    """As in `EvaluateResult`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowPrediction(Result):
    """The likeliest classes of one window of a long video, or of a stretch of windows without an answer. What is None
    is left out of ``as_dict()``, and ``scores`` always."""

    start_s: float
    end_s: float
    """Seconds from the first frame."""
    top5: list[dict[str, Any]] | None = None
    """As in `Prediction`; None where there is no answer."""
    error: str | None = None
    """Why there is no answer: no frame, damage, skipped, ..."""
    scores: Any = None
    """float64 [K], softmax; None where there is no answer."""
    next_number: int = 0
    """Number of the window behind it, of all that there are from the start of the video."""

    @property
    def name(self) -> str | None:
        """The likeliest class."""
        return self.top5[0]["class"] if self.top5 else None

    def _names(self) -> list[str]:
        shown = ("start_s", "end_s", "top5", "error")
        return [name for name in shown if getattr(self, name) is not None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Segment(Result):
    """A stretch of a long video in which a class is seen (``stm.scoring.segments``)."""

    name: str
    """The class; ``class`` as a key."""
    start_s: float
    end_s: float
    """Seconds from the first frame."""
    score: float
    """Mean over its windows."""
    peak: float
    """The largest of its windows."""

    def __getitem__(self, name: str) -> Any:
        return self.name if name == "class" else super().__getitem__(name)

    def _names(self) -> list[str]:
        return ["class", "start_s", "end_s", "score", "peak"]


@dataclass(frozen=True, kw_only=True, eq=False)
class TimelineResult(Result):
    """Of ``stm predict --window_s``."""

    checkpoint: str
    video: str
    window_s: float
    stride_s: float
    duration_s: float
    """Up to where windows go, from the first frame."""
    num_windows: int
    """That have an answer."""
    unanswered: list[dict[str, Any]]
    """``start_s``, ``end_s`` and ``error`` of stretches without one, joined where the reason is one; the first 1000."""
    segments: list[Segment]
    """By their start."""
    frames: int
    """That were decoded."""
    seconds: float
    """That it took."""
    files: dict[str, str]
    """The files that were written, by kind: ``windows``, ``segments``, ``figure``."""
    taken: dict[str, Any] | None = None
    """As in `EvaluateResult`."""

"""The results of the verbs: dataclasses that are also mappings with the keys of the verb's ``--json`` object.

result = stm.train(config)
result.val_top1, result["val_top1"], result.as_dict()
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True, eq=False)
class Result(Mapping[str, Any]):
    """A result. It is equal to any mapping with the same keys and values."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain dicts and lists, as ``--json`` prints them."""
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
    """Number of videos in each split, usable or not."""
    bad: dict[str, int]
    """Number of unusable videos in each split."""
    classes: int
    dataset: str
    fingerprints: dict[str, str]
    """Fingerprint of each split's manifest."""
    notes: list[str]
    """How the annotations were read, if they can be read in more than one way."""
    warnings: list[str]
    """Possible mistakes in the annotations."""
    summary: dict[str, Any]
    """As in ``stm.data.index.indexing.Summary``."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainResult(Result):
    """The result of ``stm train``."""

    run: str
    run_id: str | None
    """Id of the MLflow run; None if nothing is recorded."""
    checkpoint: str
    """The best checkpoint by validation, or else the last one."""
    last_checkpoint: str
    steps: int
    epochs: int
    best_epoch: float | None
    """Epoch of ``checkpoint``. This and the next three are None if it was not validated."""
    val_top1: float | None
    val_top5: float | None
    val_num_videos: float | None
    """All videos of the manifest; an unreadable one counts as wrong."""
    last_val_top1: float | None = None
    """Top-1 of ``last_checkpoint``; None if it was not validated."""
    test_list: str | None = None
    """Data set whose published test list ``checkpoint`` was chosen on, because it has no validation list."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluateResult(Result):
    """The result of ``stm evaluate``."""

    protocol: str
    checkpoint: str
    manifest: str
    num_videos: int
    """All videos of the manifest; an unreadable one counts as wrong."""
    unreadable: int
    top1: float
    top5: float
    mean_class_accuracy: float
    """Mean over the classes that have videos."""
    per_class: dict[str, float | None]
    """Top-1 by class; None for a class without videos."""
    class_counts: dict[str, int]
    failures: list[dict[str, str]]
    """video_id, path, reason and detail of each video that could not be read."""
    files: dict[str, str]
    """Paths of the written files, by kind: scores, confusion, per_class, report, ... (docs/reports.md)."""
    frames: dict[str, Any] | None = None
    """The results for other orders of frames (docs/reports.md); None if only clips as played were measured."""
    taken: dict[str, Any] | None = None
    """Which checkpoint it is: ``which`` (best or last of a run directory, or named), ``step`` and ``epoch``."""
    flattered: str | None = None
    """Why the figures are too high, if the checkpoint was chosen on these videos."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction(Result):
    """The likeliest classes of one video. ``as_dict()`` leaves out fields that are None."""

    path: str | None = None
    """None for a clip that was given as an array."""
    top5: list[dict[str, Any]] | None = None
    """``{"class": name, "score": softmax}``, best first; None if the video cannot be read."""
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
    """The result of ``stm predict``."""

    checkpoint: str
    num_videos: int
    unreadable: int
    videos: list[Prediction]
    """In the order found; empty if they were written to ``output``."""
    output: str | None
    taken: dict[str, Any] | None = None
    """As in `EvaluateResult`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowPrediction(Result):
    """The likeliest classes of one window of a long video, or the error of a stretch of windows.

    ``as_dict()`` leaves out fields that are None, and ``scores``.
    """

    start_s: float
    end_s: float
    """Seconds from the first frame."""
    top5: list[dict[str, Any]] | None = None
    """As in `Prediction`; None if there is an error."""
    error: str | None = None
    """Why there are no scores: no frame, damage, skipped, ..."""
    scores: Any = None
    """float64 [K], softmax; None if there is an error."""
    next_number: int = 0
    """Number of the following window, counted from the start of the video."""

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
    """The class. As a key, it is called ``class``."""
    start_s: float
    end_s: float
    """Seconds from the first frame."""
    score: float
    """Mean score over its windows."""
    peak: float
    """Largest score of its windows."""

    def __getitem__(self, name: str) -> Any:
        return self.name if name == "class" else super().__getitem__(name)

    def _names(self) -> list[str]:
        return ["class", "start_s", "end_s", "score", "peak"]


@dataclass(frozen=True, kw_only=True, eq=False)
class TimelineResult(Result):
    """The result of ``stm predict --window_s``."""

    checkpoint: str
    video: str
    window_s: float
    stride_s: float
    duration_s: float
    """End of the last window, in seconds from the first frame."""
    num_windows: int
    """Number of windows with scores."""
    unanswered: list[dict[str, Any]]
    """``start_s``, ``end_s`` and ``error`` of the first 1000 stretches without scores, joined if they are alike."""
    segments: list[Segment]
    """In order of their start."""
    frames: int
    """Number of decoded frames."""
    seconds: float
    """Time that it took."""
    files: dict[str, str]
    """Paths of the written files, by kind: ``windows``, ``segments``, ``figure``."""
    taken: dict[str, Any] | None = None
    """As in `EvaluateResult`."""

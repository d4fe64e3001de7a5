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
    """Of ``stm index``. Where it says so, values are by split."""

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
    """How the annotations were understood, where they left a choice."""
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
    """The best by validation, else the last."""
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
    """What was written, by kind: scores, confusion, per_class, report, ... (docs/reports.md)."""
    frames: dict[str, Any] | None = None
    """What the order of frames is worth (docs/reports.md); None where only clips as played were measured."""
    taken: dict[str, Any] | None = None
    """Which checkpoint it is: ``which`` (best or last of a run directory, or named), ``step`` and ``epoch``."""
    flattered: str | None = None
    """Why the figures flatter, where the checkpoint was chosen on these videos."""


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

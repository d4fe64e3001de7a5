"""Use a trained network in your own program, without Ray.

model = stm.load("runs/first")
model.predict(["clip.mp4"])[0].name
logits = model.network(model.transform("clip.mp4")[None])
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from stm.checkpoint.locate import locate
from stm.package.network import PackagedNetwork
from stm.packing.contents import TOP_K
from stm.plural import counted
from stm.results import Prediction, Segment, WindowPrediction
from stm.scoring import segments as merging

if TYPE_CHECKING:
    import torch

    from stm.model import VideoResNet

Video = str | os.PathLike[str] | np.ndarray
"""A path or URL, or a clip: uint8 [T, H, W, 3], RGB, with the T and the size that the network was trained on."""


class Model:
    """The network of a checkpoint. It predicts as ``stm predict`` does, from one centre crop of one clip of a video."""

    def __init__(self, directory: str, label: str) -> None:
        self.directory, self.label = directory, label
        self._packaged = PackagedNetwork(directory)
        self.meta = self._packaged.meta
        self.classes = tuple(self.meta.classes)

    def __repr__(self) -> str:
        clip = self._packaged.clip
        size = f"{clip.num_segments} x {clip.size} px"
        return f"<stm.Model {self.label}: {counted(len(self.classes), 'class')}, clips of {size}>"

    @cached_property
    def network(self) -> VideoResNet:
        """The module that maps float32 [N, T, 3, S, S], as from `transform`, to logits [N, K].

        It is in evaluation mode, on the GPU if there is one, and can be trained further.
        """
        from stm.checkpoint.network import load_network

        return load_network(self.directory)

    def transform(self, video: Video) -> torch.Tensor:
        """Return the normalised clip of one video, float32 [T, 3, S, S]; `network` accepts a batch of them.

        Raises ``stm.data.decode.VideoError`` if the video cannot be read, ``ValueError`` if it is not a video.
        """
        import torch

        from stm.model.inputs import normalise

        clips = self._packaged.clip_of(video)[None]
        return normalise(np.ascontiguousarray(clips), torch.device("cpu"))[0]

    def predict(self, videos: Iterable[Video] | Video) -> list[Prediction]:
        """Return the most likely classes of each video, in order; a video that cannot be read has an ``error`` instead.

        Raises ``ValueError`` for an argument that is not a video.
        """
        if isinstance(videos, str | os.PathLike) or (
            isinstance(videos, np.ndarray) and videos.ndim == 4
        ):
            videos = [videos]
        rows = list(videos)
        scores, errors = self._packaged.scores_of(rows)
        return [self._prediction(*row) for row in zip(rows, scores, errors, strict=True)]

    def windows(
        self,
        video: str | os.PathLike[str] | bytes,
        *,
        window_s: float,
        stride_s: float | None = None,
        **options: Any,
    ) -> Iterator[WindowPrediction]:
        """Yield the classes of each window of a long video, a stream or a device, as soon as they are known.

        A window of ``window_s`` begins every ``stride_s``; None is half a window. A separate process decodes, and ends
        with the iteration. ``options`` are ``live``, ``stall_s``, ``reconnect_s`` and ``stream_options`` of
        ``stm.evaluate.timeline.read_windows``.

        Raises ``UserError`` for a value that is out of range, and ``stm.data.decode.VideoError`` if the video cannot be
        read, or not to its end.
        """
        from stm.checkpoint.format import config_of
        from stm.evaluate.timeline import read_windows, scored

        deadline_s = config_of(self.meta).data.decode_deadline_s
        source = video if isinstance(video, bytes) else os.fspath(video)
        reader = read_windows(
            source,
            self._packaged.clip,
            window_s=window_s,
            stride_s=stride_s,
            deadline_s=deadline_s,
            **options,
        )
        return self._windows(reader, scored)

    def _windows(self, reader: Any, scored: Any) -> Iterator[WindowPrediction]:
        with reader:
            yield from scored(
                iter(reader), lambda views: self._packaged.scores(views[:, 0]), self.classes
            )

    def segments(
        self,
        windows: Iterable[WindowPrediction],
        *,
        enter: float = merging.ENTER,
        leave: float = merging.LEAVE,
        min_s: float = 0.0,
    ) -> Iterator[Segment]:
        """Yield the stretches in which a class is seen, from the results of `windows` (``stm.scoring.segments``)."""
        return merging.segments(windows, self.classes, enter=enter, leave=leave, min_s=min_s)

    def _prediction(self, row: Video, scores_K: np.ndarray | None, error: str) -> Prediction:
        path = None if isinstance(row, np.ndarray) else os.fspath(row)
        if scores_K is None:
            return Prediction(path=path, error=error)
        best = np.argsort(-scores_K, kind="stable")[:TOP_K]
        top5: list[dict[str, Any]] = [
            {"class": self.classes[k], "score": float(scores_K[k])} for k in best
        ]
        return Prediction(path=path, top5=top5)


def load(
    model: str | os.PathLike[str],
    *,
    which: str = "best",
    tracking: str | None = None,
    plugin: str | None = None,
) -> Model:
    """Return the network of a run (its ``which`` checkpoint, ``best`` or ``last``), a checkpoint, a URL of either, or
    ``models:/NAME@ALIAS``.

    ``tracking`` is the MLflow server or database of a registered model; None uses $MLFLOW_TRACKING_URI, or else
    runs/mlflow.db. ``plugin`` is the file that defines the network's blocks, if they are your own
    (``stm.model.plugins``). Raises ``UserError`` if there is no such model.
    """
    if plugin is not None:
        from stm.model import plugins

        plugins.load(plugin)
    located = locate(os.fspath(model), tracking, which)
    return Model(located.directory, located.label)

"""The model inside a package: ``mlflow.pyfunc.load_model("models:/NAME@champion").predict(["clip.mp4"])``.

MLflow loads this module by name (``_load_pyfunc``) from the copy of ``stm`` in the package, so that nothing is
unpickled. It needs torch, PyAV, pyarrow, numpy and pandas, but no Ray and no tracking server.

    input row      type and content
    path or URL    str: a file, a frame folder, an fsspec URL
    data URL       str: ``data:video/mp4;base64,...``
    file           bytes: the content of a video file
    clip           uint8 [T, H, W, 3], RGB, or the same as nested lists

    output column
    classes    list of str      best first; empty if the video cannot be read
    scores     list of float    softmax scores, in the order of the classes
    error      str              why the video cannot be read, or ""
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stm.checkpoint import format as checkpoints
from stm.data.decode import VideoError, probe
from stm.evaluate.protocols import protocol
from stm.packing.contents import TOP_K
from stm.scoring.inference import Classifier

if TYPE_CHECKING:
    import pandas as pd

_BATCH = 8


class PackagedNetwork:
    """A checkpoint that scores videos as ``stm predict`` does (protocol ``efficient``: one clip, centre crop)."""

    def __init__(self, directory: str) -> None:
        self.meta = checkpoints.read_meta(directory)
        data = checkpoints.config_of(self.meta).data
        self.clip = protocol("efficient").clip(data)
        self._classifier = Classifier(directory, os.cpu_count() or 1, own_process=False)

    def scores(self, clips: np.ndarray) -> np.ndarray:
        """uint8 [N, T, H, W, 3] -> softmax scores, float32 [N, K]. T and size should be those of ``clip``."""
        return self._classifier.scores(clips[:, None])

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return one row for each input row, in order, with ``params["top_k"]`` classes each (columns: see above).

        Raises ``ValueError`` for a row that is neither a path, a URL nor a clip. A video that cannot be read raises
        nothing: its row has the reason.
        """
        import pandas as pd

        top_k = int((params or {}).get("top_k", TOP_K))
        if top_k < 1:
            raise ValueError(f"top_k {top_k}: must be at least 1")
        scores, errors = self.scores_of(_rows(model_input))
        best = [
            [] if found is None else np.argsort(-found, kind="stable")[:top_k].tolist()
            for found in scores
        ]
        return pd.DataFrame(
            {
                "classes": [[self.meta.classes[k] for k in order] for order in best],
                "scores": [
                    [] if found is None else [float(found[k]) for k in order]
                    for order, found in zip(best, scores, strict=True)
                ],
                "error": errors,
            }
        )

    def scores_of(self, rows: Sequence[Any]) -> tuple[list[np.ndarray | None], list[str]]:
        """Return for each row its softmax scores, float32 [K], or None if it cannot be read; and the reason, or "".

        Raises ``ValueError`` as ``predict`` does.
        """
        errors = [""] * len(rows)
        scores: list[np.ndarray | None] = [None] * len(rows)
        waiting: list[tuple[int, np.ndarray]] = []
        for number, row in enumerate(rows):
            try:
                clip = self.clip_of(row, number)
            except VideoError as error:
                errors[number] = error.why
                continue
            if waiting and (len(waiting) == _BATCH or waiting[0][1].shape != clip.shape):
                self._flush(waiting, scores)
            waiting.append((number, clip))
        self._flush(waiting, scores)
        return scores, errors

    def _flush(
        self, waiting: list[tuple[int, np.ndarray]], scores: list[np.ndarray | None]
    ) -> None:
        if waiting:
            found = self.scores(np.stack([clip for _, clip in waiting]))
            for (number, _), row in zip(waiting, found, strict=True):
                scores[number] = row
            waiting.clear()

    def clip_of(self, row: Any, number: int = 0) -> np.ndarray:
        """Return the clip of one row, uint8 [T, H, W, 3]. ``number`` is the row's, for messages.

        Raises ``VideoError`` for a video that cannot be read, and ``ValueError`` for a row that is not a clip.
        """
        from stm.data.stream.clips import load_views

        if not isinstance(row, str | os.PathLike | bytes):
            return _as_clip(number, row)
        source: Any = row if isinstance(row, bytes) else os.fspath(row)
        if isinstance(source, str) and source.startswith("data:"):
            source = _from_data_url(number, source)
        info = probe(source, self.clip.limits)
        size = (info.num_frames, info.width, info.height)
        views, _ = load_views(source, *size, 0, 0, self.clip, info.fps)
        return views[0]


def _rows(model_input: Any) -> list[Any]:
    """The rows of a DataFrame, Series, dict, list or array of clips; a single path or URL is one row."""
    import pandas as pd

    if isinstance(model_input, str | os.PathLike | bytes):
        return [model_input]
    if isinstance(model_input, dict):
        if len(model_input) != 1:
            raise ValueError(f"expected one column of videos, not {sorted(model_input)}")
        model_input = next(iter(model_input.values()))
    if isinstance(model_input, pd.DataFrame):
        if len(model_input.columns) != 1:
            raise ValueError(f"expected one column of videos, not {list(model_input.columns)}")
        model_input = model_input.iloc[:, 0]
    rows: list[Any] = []
    for cell in model_input:
        # MLflow turns {"video": ["a.mp4", "b.mp4"]} into one row.
        names = isinstance(cell, list | tuple) and all(isinstance(name, str) for name in cell)
        rows += list(cell) if names else [cell]
    return rows


def _as_clip(number: int, row: Any) -> np.ndarray:
    try:
        clip = np.asarray(row)
    except ValueError as error:  # ragged lists
        raise ValueError(
            f"row {number}: must be a clip, or the path or URL of a video: {error}"
        ) from None
    if clip.dtype != np.uint8 and clip.dtype.kind in "iu" and clip.size:
        if clip.min() < 0 or clip.max() > 255:
            raise ValueError(f"row {number}: the pixels of a clip must be 0 to 255")
        clip = clip.astype(np.uint8)
    if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[3] != 3 or not clip.size:
        raise ValueError(
            f"row {number}: must be a clip, uint8 [T, H, W, 3], or the path or URL of a video, "
            f"not {type(row).__name__} {clip.dtype} {list(clip.shape)}"
        )
    return clip


def _from_data_url(number: int, url: str) -> bytes:
    head, comma, text = url.partition(",")
    try:
        if not comma or not head.endswith(";base64"):
            raise ValueError("a data URL must be data:...;base64,...")
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise VideoError(f"<row {number}>", "unsupported_url", str(error)) from None


def _load_pyfunc(data_path: str) -> PackagedNetwork:
    """Load the checkpoint folder ``data_path``. MLflow calls this with the package's data.

    Loading an MLflow package runs the code in it: this module, and also a plugin.
    """
    if checkpoints.read_meta(data_path).plugin is not None:
        from stm.model import plugins

        plugins.load(os.path.join(data_path, checkpoints.PLUGIN))
    return PackagedNetwork(data_path)

"""Score files of evaluations, and their fusion: networks that make different errors are better together."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stm.data.classes import match_classes
from stm.errors import UserError
from stm.report.tables import write_tables
from stm.scoring.metrics import Metrics, measure
from stm.storage import write_bytes


@dataclass(frozen=True)
class ScoreFile:
    """The content of ``scores.parquet`` of an evaluation, in the order of the manifest."""

    video_ids: list[str]
    labels_N: np.ndarray
    """int64 [N]."""
    readable_N: np.ndarray
    """bool [N]."""
    scores_NK: np.ndarray
    """float32 [N, K]; zeros for unreadable videos."""
    classes: list[str]

    def write(self, path: Path) -> None:
        """Write Parquet: video_id, label, readable, scores: list<float> [K]; the classes are in its metadata."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table(
            {
                "video_id": self.video_ids,
                "label": pa.array(self.labels_N, pa.int32()),
                "readable": pa.array(self.readable_N),
                "scores": pa.array(list(self.scores_NK.astype(np.float32))),
            }
        ).replace_schema_metadata({"stm.classes": json.dumps(self.classes)})
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        write_bytes(str(path), buffer.getvalue())

    @classmethod
    def read(cls, path: str) -> ScoreFile:
        """Read what `write` wrote. Raises ``UserError`` if ``path`` is not such a file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pa.OSFile(path) as file:
                table = pq.ParquetFile(file).read()
            classes = json.loads(table.schema.metadata[b"stm.classes"])
            return cls(
                table.column("video_id").to_pylist(),
                table.column("label").to_numpy().astype(np.int64),
                table.column("readable").to_numpy(),
                np.stack(table.column("scores").to_numpy()),
                classes,
            )
        except FileNotFoundError:
            raise UserError(f"--fuse {path}: no such file") from None
        except (pa.ArrowInvalid, KeyError, TypeError, OSError) as error:
            raise UserError(
                f"--fuse {path}: not a scores.parquet that `stm evaluate --output` wrote ({error})"
            ) from error


def fuse(paths: list[str], shares: list[float] | None = None) -> tuple[ScoreFile, Metrics]:
    """Return the weighted mean of several score files, and its metrics.

    Videos are matched by id; all files must have the same N videos. A video that is unreadable in some files gets the
    mean of the others. ``shares`` are relative weights, equal by default. Raises ``UserError`` if the videos differ.
    """
    if len(paths) < 2:
        raise UserError("--fuse takes two score files or more")
    shares = shares or [1.0] * len(paths)
    if len(shares) != len(paths) or min(shares) < 0 or sum(shares) <= 0:
        raise UserError(f"--shares {shares}: one number, from 0 up, for each of {len(paths)} files")
    first, *others = [ScoreFile.read(path) for path in paths]
    named = zip(paths[1:], others, strict=True)
    files = [first, *(_in_order_of(first, paths[0], path, file) for path, file in named)]
    place = {video_id: row for row, video_id in enumerate(first.video_ids)}
    total_NK = np.zeros(first.scores_NK.shape)
    weight_N = np.zeros(len(first.video_ids))
    for path, file, share in zip(paths, files, shares, strict=True):
        _check_same(paths[0], first, path, file)
        rows = [place[video_id] for video_id in file.video_ids]
        total_NK[rows] += share * file.scores_NK
        weight_N[rows] += share * file.readable_N
    readable_N = weight_N > 0
    total_NK[readable_N] /= weight_N[readable_N, None]
    fused = ScoreFile(first.video_ids, first.labels_N, readable_N, total_NK, first.classes)
    return fused, measure(total_NK, first.labels_N, readable_N)


def fused_result(
    paths: list[str], shares: list[float] | None, output: str | None
) -> dict[str, Any]:
    """Return the result of `fuse` as `stm evaluate` reports it; write scores and tables to the folder ``output``."""
    fused, metrics = fuse(paths, shares)
    files = {}
    if output:
        Path(output).mkdir(parents=True, exist_ok=True)
        fused.write(Path(output) / "scores.parquet")
        files["scores"] = str(Path(output) / "scores.parquet")
        files |= write_tables(
            Path(output), fused.classes, metrics, fused.video_ids, fused.labels_N, fused.readable_N,
            fused.scores_NK,
        )  # fmt: skip
    missing = [
        {"video_id": video_id, "path": video_id, "reason": "unreadable", "detail": "in every file"}
        for video_id, readable in zip(fused.video_ids, fused.readable_N, strict=True)
        if not readable
    ]
    return {
        "fused": paths,
        **metrics.to_dict(),
        "per_class": dict(zip(fused.classes, metrics.per_class, strict=True)),
        "class_counts": dict(zip(fused.classes, metrics.class_counts, strict=True)),
        "failures": missing,
        "files": files,
    }


def _in_order_of(first: ScoreFile, first_path: str, path: str, file: ScoreFile) -> ScoreFile:
    """Return ``file`` with labels and scores in the class order of the first file; classes are matched by name."""
    match = match_classes(file.classes, first.classes)
    if match.unknown or len(file.classes) != len(first.classes):
        lacking = set(range(len(first.classes))) - set(match.labels.values())
        one_sided = [file.classes[k] for k in match.unknown] + [first.classes[k] for k in lacking]
        raise UserError(
            f"--fuse: {path} has other classes than {first_path}: {', '.join(map(repr, one_sided[:5]))} "
            "in one of them alone. Fuse networks that were trained on the same classes"
        )
    order = np.array([match.labels[k] for k in range(len(file.classes))])
    scores_NK = np.empty_like(file.scores_NK)
    scores_NK[:, order] = file.scores_NK
    return ScoreFile(
        file.video_ids, order[file.labels_N], file.readable_N, scores_NK, first.classes
    )


def _check_same(first_path: str, first: ScoreFile, path: str, file: ScoreFile) -> None:
    labels = dict(zip(first.video_ids, first.labels_N.tolist(), strict=True))
    theirs = dict(zip(file.video_ids, file.labels_N.tolist(), strict=True))
    if labels.keys() != theirs.keys():
        (odd, *_) = sorted(labels.keys() ^ theirs.keys())
        raise UserError(
            f"--fuse: {path} and {first_path} are not of the same videos ({odd!r} is in one alone)"
        )
    if labels != theirs:
        odd = next(video_id for video_id in labels if labels[video_id] != theirs[video_id])
        raise UserError(f"--fuse: {path} and {first_path} give {odd!r} different labels")

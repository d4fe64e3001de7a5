"""Name the action in videos: a few in this process, many through Ray Data."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stm.checkpoint import format as checkpoints
from stm.checkpoint.locate import locate
from stm.data.annotations.common import join
from stm.data.decode import VideoError, probe
from stm.data.finding import find_videos
from stm.errors import UserError
from stm.evaluate.protocols import protocol as named_protocol
from stm.scoring.inference import Classifier, score_manifest

IN_PROCESS = 16
"""Up to so many videos are done here: starting Ray would take longer."""


def predict(
    checkpoint: str,
    sources: list[str],
    *,
    protocol: str = "efficient",
    output: str | None = None,
    num_workers: int = 1,
    say: Callable[[str], None],
    address: str | None = None,
    tracking: str | None = None,
) -> dict[str, Any]:
    """Top-5 classes of every video.

    ``checkpoint`` is a checkpoint, a run directory, or ``models:/NAME@champion`` in the registry ``tracking``.

    Returns ``{"videos": [{"path", "top5": [{"class", "score"}, ...]} or {"path", "error"}], "unreadable": n,
    "output": path or None}``; with ``output`` (Parquet: path, error, classes, scores, best first) the list of videos
    stays out. Raises ``UserError`` if no video at all can be read.
    """
    paths = find_videos(sources)
    located = locate(checkpoint, tracking)
    directory = located.directory
    meta = checkpoints.read_meta(directory)
    checkpoints.check_plugin(meta, directory)
    score = _score_here if output is None and len(paths) <= IN_PROCESS else _score_on_cluster
    scores, errors = score(paths, directory, meta, protocol, num_workers, say, address)
    if len(errors) == len(paths):
        path, error = next(iter(errors.items()))
        raise UserError(f"none of {len(paths)} videos could be read; the first: {path}: {error}")
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    if output is not None:
        _write(output, paths, errors, meta.classes, scores, best)
    rows = [
        {"path": path, "error": errors[path]}
        if path in errors
        else {
            "path": path,
            "top5": [{"class": meta.classes[k], "score": float(scores[i, k])} for k in best[i]],
        }
        for i, path in enumerate(paths)
    ]
    return {
        "checkpoint": located.label,
        "num_videos": len(paths),
        "unreadable": len(errors),
        "videos": rows if output is None else [],
        "output": output,
    }


def _score_here(
    paths: list[str],
    directory: str,
    meta: checkpoints.Meta,
    protocol: str,
    num_workers: int,
    say: Callable[[str], None],
    address: str | None,
) -> tuple[np.ndarray, dict[str, str]]:
    del num_workers, say, address
    from stm.data.stream.clips import load_views
    from stm.data.stream.plan import sample_seed

    config, chosen = checkpoints.config_of(meta), named_protocol(protocol)
    clip = chosen.clip(config.data)
    classifier = Classifier(directory, os.cpu_count() or 1)
    scores, errors = np.zeros((len(paths), len(meta.classes))), dict[str, str]()
    for i, path in enumerate(paths):
        try:
            info = probe(path, clip.limits)
            for sampling in range(chosen.num_samplings):
                seed = int(sample_seed(np.asarray(i), seed=0, epoch=sampling))
                clips, _ = load_views(path, info.num_frames, info.width, info.height, 0, seed, clip)
                scores[i] += classifier.scores(clips[None])[0] / chosen.num_samplings
        except VideoError as error:
            errors[path] = error.why
    return scores, errors


def _score_on_cluster(
    paths: list[str],
    directory: str,
    meta: checkpoints.Meta,
    protocol: str,
    num_workers: int,
    say: Callable[[str], None],
    address: str | None,
) -> tuple[np.ndarray, dict[str, str]]:
    from stm import cluster
    from stm.data.annotations import Annotations, Entry
    from stm.data.index.indexing import index_videos

    config, chosen = checkpoints.config_of(meta), named_protocol(protocol)
    cluster.connect(address, num_cpus=num_workers + 1)
    say(f"probing {len(paths)} videos")
    listed = [path for path in paths if _printable(path) == path]
    entries = [
        Entry(video_id=path, path=join(os.getcwd(), path), label=0, group="", line="")
        for path in listed
    ]
    indexed, _ = index_videos(
        Annotations(tuple(meta.classes), {"all": entries}, "predict"), cross_check=0
    )
    manifest = indexed["all"]
    scores = score_manifest(
        manifest,
        directory,
        chosen.clip(config.data),
        num_samplings=chosen.num_samplings,
        num_workers=num_workers,
    )
    failures = {f["video_id"]: f"{f['reason']}: {f['detail']}" for f in scores.failures}
    rows = dict(zip(listed, zip(scores.scores_NK, scores.readable_N, strict=True), strict=True))
    scores_NK, errors = np.zeros((len(paths), len(meta.classes))), dict[str, str]()
    for i, path in enumerate(paths):
        if path not in rows:
            errors[path] = "unsupported_source: its name is not UTF-8: rename it"
            continue
        scores_NK[i], readable = rows[path]
        if not readable:
            errors[path] = failures[path]
    return scores_NK, errors


def _printable(path: str) -> str:
    """A name that is not UTF-8 in a form that Arrow can hold."""
    return path.encode(errors="backslashreplace").decode()


def _write(
    output: str,
    paths: list[str],
    errors: dict[str, str],
    classes: list[str],
    scores: np.ndarray,
    best: np.ndarray,
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    Path(output).parent.mkdir(parents=True, exist_ok=True)
    read = [path not in errors for path in paths]
    table = pa.table(
        {
            "path": [_printable(path) for path in paths],
            "error": [errors.get(path, "") for path in paths],
            "classes": [
                [classes[k] for k in row] if ok else [] for row, ok in zip(best, read, strict=True)
            ],
            "scores": [
                scores[i, row].astype(np.float32).tolist() if ok else []
                for i, (row, ok) in enumerate(zip(best, read, strict=True))
            ],
        }
    )
    pq.write_table(table, output)

"""Predicts the action in videos: a few in this process, many with Ray Data."""

from __future__ import annotations

import io
import os

import numpy as np

from stm.checkpoint import format as checkpoints
from stm.checkpoint.locate import locate
from stm.data.annotations.common import join
from stm.data.decode import VideoError, probe
from stm.data.finding import find_videos
from stm.errors import UserError
from stm.evaluate.protocols import protocol as named_protocol
from stm.log import get_logger
from stm.plural import counted, none_read
from stm.results import Prediction, PredictResult
from stm.scoring.inference import Classifier, score_manifest
from stm.storage import make_writable, write_bytes

logger = get_logger(__name__)

IN_PROCESS = 16
"""Up to this many videos are predicted in this process: starting Ray would take longer."""


def predict(
    checkpoint: str,
    sources: str | list[str],
    *,
    protocol: str = "efficient",
    output: str | None = None,
    num_workers: int = 1,
    address: str | None = None,
    tracking: str | None = None,
    which: str = "best",
) -> PredictResult:
    """Predict the top-5 classes of every video. ``sources`` is a file or a folder, or a list of these.

    ``checkpoint`` is a checkpoint, a run directory (``which`` selects ``best`` or ``last``), or
    ``models:/NAME@champion`` in the registry ``tracking``.

    With ``output`` (Parquet: path, error, classes, scores, best first) the result's list of videos is empty. More than
    16 videos are predicted with Ray: if it is not connected, this joins the cluster at ``address`` or $RAY_ADDRESS, or
    starts one on this machine. Raises ``UserError`` if no video can be read.
    """
    paths = find_videos([sources] if isinstance(sources, str) else sources)
    if output is not None:  # fail now rather than after hours of work
        make_writable(os.path.dirname(output) or ".")
    located = locate(checkpoint, tracking, which)
    directory, meta = located.directory, located.meta
    checkpoints.check_plugin(meta, directory)
    score = _score_here if output is None and len(paths) <= IN_PROCESS else _score_on_cluster
    scores, errors = score(paths, directory, meta, protocol, num_workers, address)
    if len(errors) == len(paths):
        path, error = next(iter(errors.items()))
        raise UserError(none_read(len(paths), path, error))
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    if output is not None:
        _write(output, paths, errors, meta.classes, scores, best)
    rows = [
        Prediction(path=path, error=errors[path])
        if path in errors
        else Prediction(
            path=path,
            top5=[{"class": meta.classes[k], "score": float(scores[i, k])} for k in best[i]],
        )
        for i, path in enumerate(paths)
    ]
    return PredictResult(
        checkpoint=located.label,
        num_videos=len(paths),
        unreadable=len(errors),
        videos=rows if output is None else [],
        output=output,
        taken=located.taken,
    )


def _score_here(
    paths: list[str],
    directory: str,
    meta: checkpoints.Meta,
    protocol: str,
    num_workers: int,
    address: str | None,
) -> tuple[np.ndarray, dict[str, str]]:
    del num_workers, address
    from stm.data.stream.guarded import GuardedDecoder
    from stm.data.stream.plan import sample_seed

    config, chosen = checkpoints.config_of(meta), named_protocol(protocol)
    clip = chosen.clip(config.data)
    classifier = Classifier(directory, os.cpu_count() or 1)
    scores, errors = np.zeros((len(paths), len(meta.classes))), dict[str, str]()
    with GuardedDecoder(clip, config.data.decode_deadline_s, isolated=True) as decoder:
        for i, path in enumerate(paths):
            try:
                info = decoder.call(path, probe, path, clip.limits)
                size = (info.num_frames, info.width, info.height)
                for sampling in range(chosen.num_samplings):
                    seed = int(sample_seed(np.asarray(i), seed=0, epoch=sampling))
                    clips, _ = decoder.load(path, *size, 0, seed, info.fps, sampling)
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
    address: str | None,
) -> tuple[np.ndarray, dict[str, str]]:
    from stm import cluster
    from stm.data.annotations import Annotations, Entry
    from stm.data.index.indexing import index_videos

    config, chosen = checkpoints.config_of(meta), named_protocol(protocol)
    cluster.connect(address, num_cpus=num_workers + 1)
    clip, deadline_s = chosen.clip(config.data), config.data.decode_deadline_s
    logger.info(f"probing {counted(len(paths), 'video')}")
    entries = [
        Entry(video_id=str(i), path=join(os.getcwd(), path), label=0, group="", line="")
        for i, path in enumerate(paths)
    ]
    indexed, _ = index_videos(
        Annotations(tuple(meta.classes), {"all": entries}, "predict"),
        cross_check=0,
        deadline_s=deadline_s,
        limits=clip.limits,
    )
    scores = score_manifest(
        indexed["all"],
        directory,
        clip,
        num_samplings=chosen.num_samplings,
        num_workers=num_workers,
        decode_deadline_s=deadline_s,
    )
    why = {int(f["video_id"]): f"{f['reason']}: {f['detail']}" for f in scores.failures}
    unread = np.flatnonzero(~scores.readable_N).tolist()
    return scores.scores_NK, {paths[i]: why[i] for i in unread}


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

    from stm.data.index.indexing import printable_path

    read = [path not in errors for path in paths]
    table = pa.table(
        {
            "path": [printable_path(path) for path in paths],
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
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_bytes(output, buffer.getvalue())

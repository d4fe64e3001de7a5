"""Evaluates a checkpoint on a manifest with a named protocol."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from stm import cluster, tracking
from stm.checkpoint import format as checkpoints
from stm.checkpoint.locate import find
from stm.config import Config, Sampling
from stm.data.annotations import reversing
from stm.data.manifest import Manifest
from stm.data.roots import IF_MOVED, absolute_root
from stm.errors import UserError
from stm.evaluate.fusing import ScoreFile
from stm.evaluate.protocols import protocol as named_protocol
from stm.evaluate.reporting import output_folder, run_folder, write_report
from stm.log import get_logger
from stm.plural import counted
from stm.report import pictures
from stm.report.tables import write_tables
from stm.report.time_use import TimeUse
from stm.results import EvaluateResult
from stm.scoring.inference import Scores, score_manifest
from stm.scoring.metrics import Metrics, measure
from stm.scoring.orders import checked
from stm.storage import absolute
from stm.ticker import Ticker

logger = get_logger(__name__)


def evaluate(
    checkpoint: str,
    manifest_path: str,
    *,
    protocol: str = "efficient",
    output: str | None = None,
    num_segments: int | None = None,
    sampling: Sampling | None = None,
    frame_stride: int | None = None,
    window_s: float | None = None,
    num_workers: int = 1,
    batch_size: int = 8,
    address: str | None = None,
    root: str | None = None,
    report: bool = True,
    which: str = "best",
    frames: Sequence[str] = ("played",),
    pairs: str | Sequence[tuple[str, str]] | None = None,
    tick: Callable[[int, int], None] | None = None,
) -> EvaluateResult:
    """Score every video of the manifest once, and write the scores, the figures and a page that shows them.

    They are written to ``output``, by default ``evaluate-PROTOCOL-MANIFEST`` beside the checkpoint. Without ``report``
    no page is written, and the rest only to a given ``output``. ``tick(done, total)`` is called with the number of
    clips; by default progress is logged.

    ``num_segments``, ``sampling``, ``frame_stride`` and ``window_s`` default to the settings of training.

    If ``root`` is given, every video must be in this folder or URL. In a run directory, ``which`` selects the
    checkpoint: ``best`` or ``last``.

    ``frames`` are further orders of the frames of a clip: ``reversed``, ``shuffled``, ``still`` (one frame repeated).
    All figures but ``frames`` are for the order ``played``. ``pairs`` names classes that are the reverse of each other,
    as a CSV file of two names per line or as pairs of names; None finds them from the names.

    If Ray is not connected, this joins the cluster at ``address`` or $RAY_ADDRESS, or starts one on this machine.
    Raises ``UserError`` for errors that the user can fix.
    """
    chosen, orders = named_protocol(protocol), checked(frames)
    located = find(checkpoint, which)
    directory, meta = located.directory, located.meta
    checkpoints.check_plugin(meta, directory)
    read = Manifest.read(manifest_path, root)
    manifest = read.with_classes(
        meta.classes, name=f"--manifest {manifest_path}", of=f"the network in {directory}"
    )
    of_time = len(orders) > 1 or pairs is not None
    pairs_of_labels = _pairs(pairs, meta.classes) if of_time else []
    config = checkpoints.config_of(meta)
    flattered = None
    if located.was_chosen:
        flattered = checkpoints.chosen_on(meta, read.fingerprint, read.dataset)
    folder = output_folder(output, directory, protocol, manifest_path, report)
    data = config.data.resampled(num_segments, sampling, frame_stride, window_s)
    cluster.connect(address, num_cpus=num_workers + 1)
    logger.info(
        f"{protocol}: {counted(len(manifest), 'video')} x {counted(chosen.num_views, 'view')} of "
        f"{data.num_segments} x {data.size} px, {data.sampling}, checkpoint {directory} (step {meta.step})"
    )
    began = time.monotonic()
    scores = score_manifest(
        manifest,
        directory,
        chosen.clip(data),
        num_samplings=chosen.num_samplings,
        batch_size=batch_size,
        num_workers=num_workers,
        decode_deadline_s=config.data.decode_deadline_s,
        orders=orders,
        tick=tick or Ticker("clips"),
    )
    seconds = time.monotonic() - began
    if not scores.readable_N.any() and {f["reason"] for f in scores.failures} == {"not_found"}:
        first = scores.failures[0]["path"]
        raise UserError(
            f"--manifest {manifest_path}: none of its {counted(len(manifest), 'video')} is found; the first: {first}. "
            f"{IF_MOVED}"
        )
    labels = manifest.table.column("label").to_numpy().astype(np.int64)
    metrics = measure(scores.scores_NK, labels, scores.readable_N)
    assert metrics.num_videos == len(manifest)
    use = None
    if of_time:
        by_order = {"played": scores.scores_NK, **scores.reordered}
        use = TimeUse(by_order, labels, scores.readable_N, pairs_of_labels)
    files: dict[str, str] = {}
    if folder is not None:
        title = f"{protocol}, top-1 {metrics.top1:.1%}"
        files = write(folder, manifest, scores, metrics, title)
    if folder is not None and report:
        files |= write_report(
            folder,
            protocol=protocol,
            num_segments=data.num_segments,
            checkpoint=directory,
            which=located.which,
            flattered=flattered,
            meta=meta,
            manifest_path=manifest_path,
            manifest=manifest,
            manifest_fingerprint=read.fingerprint,
            scores=scores,
            metrics=metrics,
            seconds=seconds,
            options={
                "workers": num_workers,
                "batch_size": batch_size,
                "output": output,
                "root": root and absolute_root(root),
                "sampling": sampling,
                "frame_stride": frame_stride,
                "window_s": window_s,
                "frames": list(orders[1:]) or None,
                "pairs": absolute(pairs) if isinstance(pairs, str) else None,
            },
            time_use=use,
            pairs_from="found from the names of classes" if pairs is None else "those of --pairs",
        )
    result = EvaluateResult(
        protocol=protocol,
        checkpoint=directory,
        manifest=manifest_path,
        **{
            **metrics.to_dict(),
            "per_class": dict(zip(meta.classes, metrics.per_class, strict=True)),
            "class_counts": dict(zip(meta.classes, metrics.class_counts, strict=True)),
        },
        failures=scores.failures,
        files=files,
        frames=use.as_dict(meta.classes) if use else None,
        taken=located.taken,
        flattered=flattered,
    )
    _record(config, run_folder(directory), meta, protocol, result)
    return result


def _pairs(
    pairs: str | Sequence[tuple[str, str]] | None, classes: list[str]
) -> list[tuple[int, int]]:
    """Return the label pairs of classes that are the reverse of each other."""
    if pairs is None:
        return reversing.backwards(classes)
    if isinstance(pairs, str):
        return reversing.read_pairs(pairs, classes)
    return reversing.check_pairs(pairs, classes, [repr(pair) for pair in pairs])


def _record(
    config: Config,
    run_directory: Path,
    meta: checkpoints.Meta,
    protocol: str,
    result: EvaluateResult,
) -> None:
    """Add the result to the MLflow run that trained the checkpoint, if its run directory still exists."""
    if not (run_directory / "tracking.run_id").exists():
        return
    try:
        tracker = tracking.open_run(config, run_directory, run_directory.name)
    except UserError as error:  # the result is valid without the record
        logger.warning(str(error))
        return
    # Use a separate spool: the run may still be training, and a spool has only one writer.
    tracker.spool = run_directory / f"tracking-{protocol}.jsonl"
    shown = ("top1", "top5", "mean_class_accuracy", "num_videos", "unreadable")
    # MLflow orders the groups of its charts by name: those of one point come last.
    group = f"views_{protocol}"
    named = {f"{group}/{name}": result[name] for name in shown}
    for order, figures in (result.frames or {"orders": {}})["orders"].items():
        named[f"{group}/top1_{order}"] = figures["top1"]
    tracker.metrics(named, meta.step)
    for path in result.files.values():
        tracker.artifact(Path(path).resolve(), f"evaluate-{protocol}")
    tracker.deliver(patient=True)


def write(
    output: Path, manifest: Manifest, scores: Scores, metrics: Metrics, title: str
) -> dict[str, str]:
    """Write ``scores.parquet`` (`ScoreFile`; one more for each other order of frames), tables and figures; return their
    paths."""
    output.mkdir(parents=True, exist_ok=True)
    video_ids = manifest.table.column("video_id").to_pylist()
    labels = manifest.table.column("label").to_numpy()
    classes = list(manifest.classes)
    files = {}
    for kind, scores_NK in {"scores": scores.scores_NK, **_named(scores)}.items():
        files[kind] = str(output / f"{kind}.parquet")
        ScoreFile(video_ids, labels, scores.readable_N, scores_NK, classes).write(Path(files[kind]))
    files |= write_tables(
        output, classes, metrics, video_ids, labels, scores.readable_N, scores.scores_NK
    )
    per_class = (metrics.per_class, metrics.class_counts)
    figures = {
        "confusion": pictures.plot_confusion(
            output / "confusion.png", metrics.confusion, classes, title
        ),
        "per_class": pictures.plot_per_class(output / "per_class.png", *per_class, classes, title),
    }
    return files | {kind: str(path) for kind, path in figures.items()}


def _named(scores: Scores) -> dict[str, np.ndarray]:
    return {f"scores_{order}": scores_NK for order, scores_NK in scores.reordered.items()}

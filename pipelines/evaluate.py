"""Measure a checkpoint: ``stm evaluate --checkpoint runs/first --manifest val.parquet``."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pipelines.options import (
    Address,
    Count,
    CountOrNull,
    FileOrNull,
    FilesOrNull,
    OutputOrNull,
    PositiveOrNull,
    Protocol,
    Root,
    Which,
)
from stm.bounds import Rule
from stm.errors import UserError
from stm.plural import counted, have
from stm.progress_view import progress_view
from stm.redaction import one_line
from stm.storage import is_url


def _are_weights(shares: list[float]) -> bool:
    return bool(shares) and min(shares) >= 0 and sum(shares) > 0


def evaluate(
    *,
    checkpoint: str | None = None,
    which: Which = "best",
    manifest: str | None = None,
    fuse: FilesOrNull = None,
    shares: Annotated[
        list[float] | None, Rule(_are_weights, "must be numbers of at least 0, one of them above 0")
    ] = None,
    protocol: Protocol = "efficient",
    output: OutputOrNull = None,
    report: bool = True,
    num_segments: CountOrNull = None,
    sampling: Literal["segments", "dense", "seconds"] | None = None,
    frame_stride: CountOrNull = None,
    window_s: PositiveOrNull = None,
    frames: list[Literal["played", "reversed", "shuffled", "still"]] = ["played"],  # noqa: B006  (never changed)
    pairs: FileOrNull = None,
    root: Root = None,
    workers: Count = 1,
    batch_size: Count = 8,
    address: Address = None,
    json: bool = False,
) -> dict[str, Any]:
    """Measure a checkpoint on the videos of a manifest, and write a report.

    Every video counts once, and one that cannot be read counts as wrong.

    Examples:
        stm evaluate --checkpoint runs/first --manifest val.parquet
        stm evaluate --checkpoint runs/first --manifest val.parquet --protocol accurate --output report
        stm evaluate --checkpoint runs/first --manifest val.parquet --json
        stm evaluate --checkpoint runs/first --manifest val.parquet --frames reversed shuffled still
        stm evaluate --fuse rgb/scores.parquet longer/scores.parquet --shares 2 1

    Args:
        checkpoint: checkpoint, or the folder of a run, whose best checkpoint is used (see --which)
        manifest: manifest to measure on
        fuse: score files of earlier evaluations to average, instead of a checkpoint
        shares: weight of each file of --fuse; null gives all files the same weight
        output: folder for scores, figures and report.html; null creates one beside the checkpoint
        report: whether to write report.html
        num_segments: number of frames in a clip; null uses that of training
        sampling: how frames are chosen (--data.sampling of `stm train`); null uses the sampling of training
        frame_stride: distance between frames with --sampling dense; null uses that of training
        window_s: length of a clip in seconds with --sampling seconds; null uses that of training
        frames: further orders of frames to measure: `reversed`, `shuffled`, `still` (one frame repeated)
        pairs: CSV file of classes that are reversals of each other, two names per line; null finds them by their
            names if --frames names other orders
        workers: processes that run the network
        batch_size: number of clips in a batch of one process
    """
    if fuse:
        if checkpoint or manifest:
            raise UserError(
                "--fuse accepts only score files: leave out --checkpoint and --manifest"
            )
        if frames != ["played"] or pairs is not None:
            raise UserError(
                "--frames and --pairs need a --checkpoint: score files contain no frames"
            )
        from stm.evaluate.fusing import fused_result

        return fused_result(fuse, shares, output)
    if checkpoint is None or manifest is None:
        name = "manifest" if checkpoint else "checkpoint"
        raise UserError(f"--{name} is not set (or give --fuse, with score files)")
    if not is_url(manifest) and not os.path.exists(manifest):
        raise UserError(f"--manifest {manifest}: no such file; `stm index` writes one")
    from stm.evaluate.evaluate import evaluate as measure

    with progress_view(plain=json) as view:
        return measure(
            checkpoint,
            manifest,
            protocol=protocol,
            output=output,
            num_segments=num_segments,
            sampling=sampling,
            frame_stride=frame_stride,
            window_s=window_s,
            num_workers=workers,
            batch_size=batch_size,
            address=address,
            root=root,
            report=report,
            which=which,
            frames=frames,
            pairs=pairs,
            tick=view.counting("clips"),
        ).as_dict()


def show(result: dict[str, Any]) -> str:
    occurring = sum(count > 0 for count in result["class_counts"].values())
    absent = len(result["class_counts"]) - occurring
    over = (
        f" (over {counted(occurring, 'class')}; {absent} {have(absent)} no videos)"
        if absent
        else ""
    )
    lines = [
        f"top-1 {result['top1']:.2%}   top-5 {result['top5']:.2%}   "
        f"mean class {result['mean_class_accuracy']:.2%}{over}   "
        f"N = {result['num_videos']}, of which {result['unreadable']} unreadable and counted as wrong"
    ]
    if result["flattered"]:
        lines.append(f"  {result['flattered']}")
    if len(result["per_class"]) <= 30:
        width = max(len(one_line(name)) for name in result["per_class"])
        for name, accuracy in result["per_class"].items():
            said = "   -" if accuracy is None else f"{accuracy:6.1%}"
            lines.append(f"  {one_line(name):<{width}}  {said}  of {result['class_counts'][name]}")
    lines += frames_table(result)
    lines += [
        one_line(f"  unreadable: {f['path']}: {f['reason']}: {f['detail']}")
        for f in result["failures"][:10]
    ]
    lines += [f"{kind}: {path}" for kind, path in result["files"].items()]
    return "\n".join(lines)


def frames_table(result: dict[str, Any]) -> list[str]:
    """Return a table of top-1 by order of frames, if other orders were measured."""
    found = result.get("frames")
    if not found:
        return []
    lines = ["  frames    top-1   95 %              of a pair, 95 %"]
    for order, figures in found["orders"].items():
        line = f"  {order:<8} {_share(figures['top1'], figures['top1_interval'])}"
        if in_pairs := found["in_pairs"].get(order):
            line += f"   {_share(in_pairs['share'], in_pairs['interval'])}"
            line += "   called the other class" if order == "reversed" else ""
        lines.append(line.rstrip())
    return [*lines, *(f"  {sentence}" for sentence in found["says"])]


def _share(share: float, interval: list[float]) -> str:
    low, high = interval
    return f"{share:6.1%}   {f'{100 * low:.1f} to {100 * high:.1f} %':<15}"

"""Name the action in videos: ``stm predict --checkpoint runs/first clip.mp4``."""

from __future__ import annotations

from typing import Any

from pipelines.options import (
    Address,
    CheckpointOrModel,
    Count,
    Protocol,
    Tracking,
    Videos,
    Which,
)
from stm.redaction import one_line


def predict(
    videos: Videos,
    *,
    checkpoint: CheckpointOrModel,
    which: Which = "best",
    tracking: Tracking = None,
    protocol: Protocol = "efficient",
    output: str | None = None,
    workers: Count = 1,
    address: Address = None,
) -> dict[str, Any]:
    """Print the five likeliest classes of each video.

    Examples:
        stm predict --checkpoint runs/first clip.mp4
        stm predict --checkpoint runs/first folder/ --protocol accurate
        stm predict --checkpoint runs/first frames/17 prepared/shards/shard-00000.parquet#3
        stm predict --checkpoint runs/first folder/ --output predictions.parquet
        stm predict --model models:/actions@champion clip.mp4

    Args:
        output: Parquet file to write, instead of printing
        workers: processes that run the network
    """
    from stm.evaluate.predict import predict as name_actions

    return name_actions(
        checkpoint,
        videos,
        protocol=protocol,
        output=output,
        num_workers=workers,
        address=address,
        tracking=tracking,
        which=which,
    ).as_dict()


def show(result: dict[str, Any]) -> str:
    lines = []
    for video in result["videos"]:
        lines.append(one_line(video["path"]))
        if "error" in video:
            lines.append(f"    unreadable: {one_line(video['error'])}")
        else:
            lines += [
                f"  {answer['score']:6.1%}  {one_line(answer['class'])}" for answer in video["top5"]
            ]
    if result["output"]:
        lines.append(
            f"{result['num_videos']} videos, {result['unreadable']} unreadable: {result['output']}"
        )
    return "\n".join(lines)

"""Classify videos: ``stm predict --checkpoint runs/first clip.mp4``."""

from __future__ import annotations

from typing import Annotated, Any

from pipelines.options import (
    Address,
    CheckpointOrModel,
    Count,
    PositiveOrNull,
    Protocol,
    Tracking,
    Videos,
    Which,
)
from stm.bounds import Bounds
from stm.errors import UserError
from stm.plural import counted
from stm.redaction import one_line
from stm.storage import on_this_machine

_Score = Annotated[float | None, Bounds(gt=0, le=1)]


def predict(
    videos: Videos,
    *,
    checkpoint: CheckpointOrModel,
    which: Which = "best",
    tracking: Tracking = None,
    protocol: Protocol = "efficient",
    output: str | None = None,
    workers: Count = 1,
    window_s: PositiveOrNull = None,
    stride_s: PositiveOrNull = None,
    enter: _Score = None,
    leave: _Score = None,
    min_s: Annotated[float | None, Bounds(ge=0)] = None,
    live: bool | None = None,
    stall_s: PositiveOrNull = None,
    reconnect_s: Annotated[float | None, Bounds(ge=0)] = None,
    stream_options: list[str] | None = None,
    address: Address = None,
) -> dict[str, Any]:
    """Print the five most likely classes of each video, or of each window of a long video.

    Examples:
        stm predict --checkpoint runs/first clip.mp4
        stm predict --checkpoint runs/first folder/ --protocol accurate
        stm predict --checkpoint runs/first frames/17 prepared/shards/shard-00000.parquet#3
        stm predict --checkpoint runs/first folder/ --output predictions.parquet
        stm predict --model models:/actions@champion clip.mp4
        stm predict --checkpoint runs/first match.mp4 --window_s 2 --stride_s 1 --output timeline.csv
        stm predict --checkpoint runs/first rtsp://camera/live --window_s 2 --reconnect_s 600

    Args:
        output: Parquet file to write, instead of printing; with --window_s the timeline, as .parquet, .csv or .json
        workers: processes that run the network
        window_s: length of a window in seconds: classifies one long video, a stream (rtsp://...) or a device
            (/dev/video0) window by window (docs/long-videos.md)
        stride_s: seconds from the start of one window to the start of the next; null uses half of --window_s
        enter: score that at least one window of a segment must have; null uses 0.5
        leave: score that every window of a segment must have; null uses 0.3
        min_s: length in seconds below which segments are dropped; null drops none
        live: skip windows rather than fall behind; null does so for streams and devices. With true, an HTTP URL is read
            as a stream
        stall_s: seconds without data after which a stream counts as lost; null uses 10
        reconnect_s: seconds for which to keep trying to reconnect to a stream that has ended or was lost; null does not
            try
        stream_options: options of FFmpeg for the stream or device, as NAME=VALUE, such as rtsp_transport=udp
    """
    windows = {
        "stride_s": stride_s,
        "enter": enter,
        "leave": leave,
        "min_s": min_s,
        "live": live,
        "stall_s": stall_s,
        "reconnect_s": reconnect_s,
        "stream_options": stream_options,
    }
    given = {name: value for name, value in windows.items() if value is not None}
    if window_s is not None:
        return _windows(
            videos, checkpoint, which, tracking, protocol, output, workers, address, window_s, given
        )
    if given:
        raise UserError(f"--{next(iter(given))}: has no effect without --window_s")
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


def _windows(
    videos: list[str],
    checkpoint: str,
    which: str,
    tracking: str | None,
    protocol: str,
    output: str | None,
    workers: int,
    address: str | None,
    window_s: float,
    given: dict[str, Any],
) -> dict[str, Any]:
    from stm.evaluate.timeline import name_windows

    for name, value, usual in (("workers", workers, 1), ("address", address, None)):
        if value != usual:
            raise UserError(f"--{name}: has no effect with --window_s, which runs in one process")
    if output is not None:
        on_this_machine(output, "--output")
    return name_windows(
        checkpoint,
        videos,
        window_s=window_s,
        protocol=protocol,
        output=output,
        tracking=tracking,
        which=which,
        **given,
    ).as_dict()


def show(result: dict[str, Any]) -> str:
    lines = []
    if "segments" in result:
        return _show_timeline(result)
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
            f"{counted(result['num_videos'], 'video')}, {result['unreadable']} unreadable: {result['output']}"
        )
    return "\n".join(lines)


def _show_timeline(result: dict[str, Any]) -> str:
    from stm.data.windows.decoding import clock

    lines = [
        f"  {clock(each['start_s'])} - {clock(each['end_s'])}  {each['score']:6.1%}  {one_line(each['class'])}"
        for each in result["segments"]
    ]
    lines.append(
        f"{clock(result['duration_s'])} of {one_line(result['video'])}: {counted(result['num_windows'], 'window')}, "
        f"{counted(len(result['segments']), 'segment')}, {counted(len(result['unanswered']), 'stretch')} without scores"
    )
    lines += [f"{kind}: {path}" for kind, path in result["files"].items()]
    return "\n".join(lines)

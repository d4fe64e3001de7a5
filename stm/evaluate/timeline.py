"""Predicts the actions in a long video or a stream, window by window: ``stm predict --window_s 2``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stm.bounds import number
from stm.checkpoint import format as checkpoints
from stm.checkpoint.locate import locate
from stm.config import DataConfig
from stm.data.decode import VideoError
from stm.data.decode.reader import is_frames
from stm.data.decode.source import Stream, is_stream
from stm.data.finding import find_videos
from stm.data.source_state import source_state
from stm.data.stream.clips import ClipSpec
from stm.data.windows.cutting import Window
from stm.data.windows.decoding import Job, clock
from stm.data.windows.reader import WindowReader
from stm.errors import UserError
from stm.evaluate.protocols import protocol as named_protocol
from stm.evaluate.timeline_files import Timeline
from stm.log import get_logger
from stm.redaction import one_line, redact
from stm.results import Segment, TimelineResult, WindowPrediction
from stm.scoring.inference import Classifier
from stm.scoring.segments import ENTER, LEAVE, Merger

logger = get_logger(__name__)

TOP_K = 5
STALL_S = 10.0
_MOST_UNANSWERED = 1000


def read_windows(
    source: str | os.PathLike[str] | bytes,
    spec: ClipSpec,
    *,
    window_s: float,
    stride_s: float | None = None,
    deadline_s: float = DataConfig.decode_deadline_s,
    live: bool | None = None,
    stall_s: float = STALL_S,
    reconnect_s: float = 0.0,
    stream_options: list[str] | None = None,
    first: int = 0,
) -> WindowReader:
    """Return a reader of the windows of a video file, a URL, a stream (rtsp://...), a device or the bytes of a file.

    The options are those of `name_windows`; ``first`` is the number of the first window to read. Raises ``UserError``
    for a value that is out of range.
    """
    stride_s = window_s / 2 if stride_s is None else stride_s
    for name, seconds in (("window_s", window_s), ("stride_s", stride_s), ("stall_s", stall_s)):
        if not 0 < seconds < np.inf:
            raise UserError(f"--{name} {number(seconds)}: must be a finite number above 0")
    if not 0 <= reconnect_s < np.inf:
        raise UserError(
            f"--reconnect_s {number(reconnect_s)}: must be a finite number, and not negative"
        )
    is_a_stream = is_stream(source, bool(live))
    options = []
    for option in stream_options or []:
        name, equals, value = option.partition("=")
        if not (name and equals):
            raise UserError(
                f"--stream_options {option}: must be NAME=VALUE, such as rtsp_transport=udp"
            )
        options.append((name, value))
    for name, is_given in (("reconnect_s", reconnect_s > 0), ("stream_options", bool(options))):
        if is_given and not is_a_stream:
            raise UserError(f"--{name}: has no effect on a file: give it with a stream or a device")
    stream = Stream(max(stall_s, 30.0), stall_s, tuple(options)) if is_a_stream else None
    job = Job(source, spec, window_s, stride_s, stream=stream, first=first)
    is_live = is_a_stream if live is None else live
    return WindowReader(job, deadline_s=deadline_s, is_live=is_live, reconnect_s=reconnect_s)


def scored(
    windows: Iterator[Window], score: Callable[[np.ndarray], np.ndarray], classes: Sequence[str]
) -> Iterator[WindowPrediction]:
    """Yield the prediction for each window. ``score`` maps uint8 [1, V, T, S, S, 3] to float32 [1, K]."""
    for window in windows:
        scores = None
        if window.clips is not None:
            scores = np.zeros(len(classes))
            for views in window.clips:
                scores += score(views[None])[0] / len(window.clips)
        yield best_of(window, scores, classes)


def best_of(
    window: Window, scores_K: np.ndarray | None, classes: Sequence[str]
) -> WindowPrediction:
    """Return the prediction for a window with scores ``scores_K``, which are None if the window has no clips."""
    place: dict[str, Any] = {
        "start_s": round(window.start_s, 6),
        "end_s": round(window.end_s, 6),
        "next_number": window.next_number,
    }
    if scores_K is None:
        return WindowPrediction(error=window.why, **place)
    best = np.argsort(-scores_K, kind="stable")[:TOP_K]
    top5 = [{"class": classes[k], "score": float(scores_K[k])} for k in best]
    return WindowPrediction(top5=top5, scores=scores_K, **place)


def name_windows(
    checkpoint: str,
    source: str | list[str],
    *,
    window_s: float,
    stride_s: float | None = None,
    protocol: str = "efficient",
    output: str | None = None,
    enter: float = ENTER,
    leave: float = LEAVE,
    min_s: float = 0.0,
    live: bool | None = None,
    stall_s: float = STALL_S,
    reconnect_s: float = 0.0,
    stream_options: list[str] | None = None,
    tracking: str | None = None,
    which: str = "best",
) -> TimelineResult:
    """Predict the classes of each window of a long video or a stream, and merge windows into segments.

    Window k is [k * stride_s, k * stride_s + window_s) by the video's own time stamps. Its clip is the one that
    ``predict`` would use for a video cut to this window. The log has a line per window.

    Args:
        checkpoint: As for ``predict``.
        source: A video file, a URL, the address of a stream (rtsp://...) or a device (/dev/video0).
        stride_s: Seconds between the starts of consecutive windows; None is half a window.
        output: The timeline file, .parquet, .csv or .json; segments and a figure are written beside it. If the source
            is a file, a run that was killed is continued.
        enter, leave, min_s: As in ``stm.scoring.segments``.
        live: Skip windows rather than fall behind; None means True for streams and devices only. With True, an HTTP
            URL is treated as a stream.
        stall_s: Seconds without data after which a stream counts as interrupted.
        reconnect_s: Seconds for which to retry a stream that ended or was interrupted.
        stream_options: Options of FFmpeg as NAME=VALUE.

    Raises ``UserError`` if the source cannot be read; with an ``output``, the windows so far are written.
    """
    begun = time.monotonic()
    video = _only(source)
    located = locate(checkpoint, tracking, which)
    checkpoints.check_plugin(located.meta, located.directory)
    meta, data = located.meta, checkpoints.config_of(located.meta).data
    spec = named_protocol(protocol).clip(data)
    merger = Merger(meta.classes, enter=enter, leave=leave, min_s=min_s)
    stride_s = window_s / 2 if stride_s is None else stride_s
    reading: dict[str, Any] = {
        "window_s": window_s, "stride_s": stride_s, "deadline_s": data.decode_deadline_s, "live": live,
        "stall_s": stall_s, "reconnect_s": reconnect_s, "stream_options": stream_options,
    }  # fmt: skip
    timeline = None
    if output is not None:
        try:
            kept = "" if is_stream(video, bool(live)) else source_state(video)[0]
        except VideoError as error:
            raise UserError(str(error)) from error
        # A run that was killed can only be continued with the same settings.
        settings = {
            "video": redact(video), "state": kept, "checkpoint": located.label, "step": meta.step,
            "protocol": protocol, "leave": leave, "window_s": window_s, "stride_s": stride_s,
        }  # fmt: skip
        timeline = Timeline(Path(output), settings, meta.classes, may_go_on=bool(kept))
    if stride_s > window_s:
        logger.warning(f"between windows, {stride_s - window_s:g} s at a time are not looked at")
    state = _State(merger)
    if timeline is not None:
        for window in timeline.known():
            state.add(window)
        if state.number:
            logger.info(f"{timeline.journal} goes on at {clock(state.until_s)}")
    try:
        with read_windows(video, spec, first=state.number, **reading) as windows:
            classifier = Classifier(located.directory, os.cpu_count() or 1)
            for window in scored(iter(windows), classifier.scores, meta.classes):
                if timeline is not None:
                    timeline.add(window)
                state.add(window)
                logger.info(line(window))
    except VideoError as error:
        written = _finish(timeline, state)
        hint = "; a shorter --window_s takes less" if error.reason == "too_large" else ""
        raise UserError(f"{video}: {error.why}{hint}{written}") from error
    except KeyboardInterrupt as error:
        error.add_note(_finish(timeline, state).removeprefix("; ") or "nothing was to be written")
        raise
    if not state.until_s:
        raise UserError(f"{video}: no_frames: no window holds a frame")
    written = _finish(timeline, state)
    if windows.ended_by:
        at = clock(state.until_s)
        raise UserError(f"{video}: it broke off at {at}: {windows.ended_by}{written}")
    return TimelineResult(
        checkpoint=located.label,
        video=video,
        window_s=window_s,
        stride_s=stride_s,
        duration_s=state.until_s,
        num_windows=state.num_windows,
        unanswered=state.unanswered,
        segments=sorted(state.segments, key=lambda each: (each.start_s, each.name)),
        frames=windows.num_decoded,
        seconds=round(time.monotonic() - begun, 1),
        files={} if timeline is None else timeline.files,
        taken=located.taken,
    )


def line(window: WindowPrediction) -> str:
    """``0:00:04.0 - 0:00:06.0   87.3%  open door``."""
    span = f"{clock(window.start_s)} - {clock(window.end_s)}"
    if window.top5 is None:
        return f"{span}   none: {window.error}"
    best = window.top5[0]
    return f"{span}  {best['score']:6.1%}  {one_line(best['class'])}"


class _State:
    """The state of a timeline; its size grows with the number of segments, not of windows."""

    def __init__(self, merger: Merger) -> None:
        self._merger = merger
        self.segments: list[Segment] = []
        self.unanswered: list[dict[str, Any]] = []
        self.num_windows = self.number = 0
        self.until_s = 0.0

    def add(self, window: WindowPrediction) -> None:
        self.segments += self._merger.push(window)
        self.number, self.until_s = window.next_number, window.end_s
        if window.top5 is not None:
            self.num_windows += 1
            return
        row = window.as_dict()
        last = self.unanswered[-1] if self.unanswered else None
        if last and last["error"] == row["error"] and last["end_s"] >= row["start_s"]:
            last["end_s"] = row["end_s"]
        elif len(self.unanswered) < _MOST_UNANSWERED:
            self.unanswered.append(row)

    def finish(self) -> None:
        self.segments += self._merger.finish()


def _only(source: str | list[str]) -> str:
    paths = find_videos([source] if isinstance(source, str) else source)
    if len(paths) != 1:
        raise UserError(
            f"--window_s: takes one video at a time, and these are {len(paths)}, such as {paths[0]}"
        )
    if is_frames(paths[0]):
        raise UserError(
            f"--window_s: {paths[0]} is a folder of images, which has no time stamps: make a video of it, as with "
            "`ffmpeg -framerate 12 -i %05d.jpg video.mp4`"
        )
    return paths[0]


def _finish(timeline: Timeline | None, state: _State) -> str:
    """Write the files of the timeline; return a message that says where they are."""
    state.finish()
    if timeline is None:
        return ""
    if not timeline.finish(state.segments):
        return ""
    return f"; the timeline until {clock(state.until_s)} is in {timeline.output}"

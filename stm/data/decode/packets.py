"""The fast decoder: it decodes only the packets that the wanted frames need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import av.error

from stm.data.decode.plan import PacketPlan, Run
from stm.data.video import VideoError

Emit = Callable[[int, Any], None]


class Unsure(Exception):
    """The packet plan cannot be trusted for this file; decode it sequentially instead."""

    def __init__(self, why: str, *, numbers_hold: bool) -> None:
        super().__init__(why)
        self.numbers_hold = numbers_hold
        """Whether presentation times still give the frame numbers: the file is damaged, the plan is right."""


def decode(plan: PacketPlan, wanted: Sequence[int], emit: Emit) -> None:
    """Call ``emit(frame number, av.VideoFrame)`` once for each wanted frame, in any order.

    Args:
        plan: The scan of an open video.
        wanted: Distinct frame numbers.
        emit: Must not use the frame after it returns.

    Raises:
        VideoError: ``bad_index``.
        Unsure: If the plan has a doubt, or the decoded frames do not match it.
    """
    if plan.doubt:
        raise Unsure(plan.doubt, numbers_hold=False)
    for k in wanted:
        if not 0 <= k < plan.num_frames:
            raise VideoError(
                plan.video.name,
                "bad_index",
                f"frame {k} was requested, but the frame count is {plan.num_frames}",
            )
    with plan.in_file_order() as packets:
        reached = 0
        for run in plan.runs(wanted):
            _decode_run(plan, run, islice(packets, run.start - reached, run.stop - reached), emit)
            reached = run.stop


def _decode_run(plan: PacketPlan, run: Run, packets: Any, emit: Emit) -> None:
    context = plan.video.context
    missing = {plan.pts[position]: k for position, k in run.frames.items()}
    key_pts: int = plan.pts[run.start]  # type: ignore[assignment]
    latest = None

    def take(frames: list[Any]) -> None:
        nonlocal latest
        for frame in frames:
            pts = frame.pts
            if pts is None or (latest is not None and pts <= latest):
                raise Unsure("frames came out of order", numbers_hold=False)
            latest = pts
            plan.check_orientation(frame)
            if pts == key_pts and not frame.key_frame:
                raise Unsure(
                    "a packet is flagged as a key frame, but its frame is not one",
                    numbers_hold=True,
                )
            # A frame before the key frame is a leading picture, whose references are not in this run.
            if frame.is_corrupt and pts >= key_pts:
                raise Unsure("damage that wanted frames may refer to", numbers_hold=True)
            k = missing.pop(pts, None)
            if k is not None:
                if plan.may_hold_fields and frame.interlaced_frame:
                    raise Unsure("pictures may be single fields", numbers_hold=False)
                emit(k, frame)

    skipping = False
    try:
        for position, packet in enumerate(packets, start=run.start):
            if plan.can_skip:
                skip = position != run.start and position not in run.frames
                if skip != skipping:
                    context.skip_frame = "NONREF" if skip else "DEFAULT"
                    skipping = skip
            if plan.is_damaged(packet):
                raise Unsure("a packet with a wrong checksum", numbers_hold=True)
            take(context.decode(packet))
        # Flush even if nothing is missing: references of the last frames may come out after them.
        take(context.decode(None))
    except av.error.MemoryError:
        raise
    except av.error.FFmpegError as error:
        raise Unsure(f"decoding failed: {error}", numbers_hold=True) from error
    finally:
        if skipping:
            context.skip_frame = "DEFAULT"
        context.flush_buffers()
    if missing:
        raise Unsure("a wanted frame did not come out", numbers_hold=True)

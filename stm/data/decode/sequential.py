"""Decode from the first frame on: slow, but right even if the packet plan is unsure."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import av.error

from stm.data.decode.plan import MOST_REORDERED, PacketPlan
from stm.data.video import VideoError


@dataclass(frozen=True)
class _Picture:
    """Facts of a decoded picture, to trace how damage spreads."""

    decoded_at: int
    """Its place in decoding order."""
    pts: int | None
    is_key: bool
    is_damaged: bool
    """The decoder reported errors in it: parts are missing, or copied from other pictures."""
    number: int | None = None
    """Its frame number, if it is wanted."""


@dataclass(frozen=True)
class Failure:
    """A packet that the decoder refused."""

    position: int
    pts: int | None
    num_frames_before: int
    message: str


def decode(
    plan: PacketPlan,
    wanted: Sequence[int],
    emit: Callable[[int, Any], None],
    *,
    count: bool,
    to_the_end: bool = False,
) -> int:
    """Call ``emit(frame number, av.VideoFrame)`` once for each wanted frame, in display order.

    Args:
        plan: The scan of an open video.
        wanted: Distinct frame numbers.
        emit: Must not use the frame after it returns.
        count: Number the frames by counting the decoded ones. Otherwise presentation times number
            them, so that a frame lost to damage does not shift later numbers.
        to_the_end: Decode all frames, even those after the last wanted one.

    Returns:
        The number of decoded frames; if ``to_the_end``, of the whole video.

    Raises:
        VideoError: ``no_frames``; ``bad_index``; ``unreadable`` if damage destroyed or affected a
            wanted frame. Only damage that the decoder reports is detected; the HEVC and VP9
            decoders reported none in tests.
    """
    missing = set(wanted)
    number_of = None if count else plan.frame_of_pts()
    position_of = {} if count else {time: position for position, time in enumerate(plan.pts)}
    # A reference may come out after any number of pictures that refer to it; the decoder's own
    # reorder depth counts only the references that it holds back.
    may_follow = MOST_REORDERED if plan.video.context.has_b_frames else 0
    num_frames = 0
    still_to_see = may_follow
    failures: list[Failure] = []
    pictures: list[_Picture] = []
    for frame in all_frames(plan, failures):
        if not missing and not to_the_end:
            if not still_to_see:
                break
            still_to_see -= 1
        plan.check_orientation(frame)
        k = num_frames if number_of is None else number_of.get(frame.pts)
        num_frames += 1
        wanted_number = k if k in missing else None
        # Without counting, the packets give the decoding order. With counting, the output order is
        # used instead, and damage is moved to the earliest place that it may have had.
        decoded_at = num_frames - (may_follow if frame.is_corrupt else 0)
        pictures.append(
            _Picture(
                position_of.get(frame.pts, decoded_at),
                frame.pts,
                frame.key_frame and not count,  # after damage, counting stays unreliable
                frame.is_corrupt,
                wanted_number,
            )
        )
        if wanted_number is not None:
            missing.remove(wanted_number)
            emit(wanted_number, frame)
    if missing and not num_frames:
        why = failures[0].message if failures else "the decoder returned no frame"
        raise VideoError(plan.video.name, "no_frames", why)
    length = num_frames if number_of is None else plan.num_frames
    for k in sorted(missing, reverse=True):
        if not 0 <= k < length:
            detail = f"frame {k} was requested, but the frame count is {length}"
            raise VideoError(plan.video.name, "bad_index", detail)
    for failure in failures:
        at = failure.num_frames_before if count else failure.position
        pictures.append(_Picture(at, failure.pts, False, True))
    lost = missing | _reached_by_damage(pictures)
    if lost:
        why = f" ({failures[0].message})" if failures else ""
        detail = f"damage at frame {min(lost)} of {length}{why}"
        raise VideoError(plan.video.name, "unreadable", detail)
    return num_frames


def _reached_by_damage(pictures: list[_Picture]) -> set[int]:
    """The wanted frames that may refer to a damaged picture: those up to the next key frame, and its
    leading pictures, which are stored after it but are shown and may refer back before it.

    A decoder fills lost parts from older pictures, and all pictures that refer to them inherit this:
    such frames look intact but show another moment.
    """
    # The decoder may return part of the picture of a packet that it refuses.
    damaged_at = {picture.decoded_at for picture in pictures if picture.is_damaged}
    if not damaged_at:
        return set()
    reached = set()
    tainted = tainted_before_key = False
    key_pts = None
    for picture in sorted(pictures, key=lambda picture: picture.decoded_at):
        if picture.is_key:
            tainted_before_key, tainted, key_pts = tainted, False, picture.pts
        is_leading = key_pts is not None and picture.pts is not None and picture.pts < key_pts
        is_damaged = picture.decoded_at in damaged_at
        if is_damaged and not is_leading:
            tainted = True
        # Only other leading pictures may refer to a leading picture.
        if is_damaged and is_leading:
            tainted_before_key = True
        is_reached = tainted or is_damaged or (is_leading and tainted_before_key)
        if picture.number is not None and is_reached:
            reached.add(picture.number)
    return reached


def first_frame(plan: PacketPlan) -> Any:
    """Return the first frame that the decoder returns, or None."""
    frames = all_frames(plan, [])
    with contextlib.closing(frames):
        return next(frames, None)


def all_frames(plan: PacketPlan, failures: list[Failure]) -> Generator[Any, None, None]:
    """Yield every frame that the decoder returns. Append the packets that it refuses to ``failures``."""
    context = plan.video.context
    context.flush_buffers()
    num_frames = 0
    try:
        with plan.in_file_order() as packets:
            for position, packet in enumerate(chain(packets, [None])):
                if packet is not None and plan.is_damaged(packet):
                    failures.append(
                        Failure(position, packet.pts, num_frames, "a packet with a wrong checksum")
                    )
                    continue
                try:
                    frames = context.decode(packet)
                except av.error.MemoryError:
                    raise
                except av.error.FFmpegError as error:
                    pts = packet.pts if packet is not None else None
                    failures.append(Failure(position, pts, num_frames, str(error.strerror)))
                    continue
                num_frames += len(frames)
                yield from frames
    finally:
        context.flush_buffers()

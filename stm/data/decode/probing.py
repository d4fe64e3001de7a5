"""Find the facts of a video file: its true length, its displayed size, whether decord can be trusted."""

from __future__ import annotations

from typing import Any

from stm.data.decode import sequential
from stm.data.decode.orientation import states_orientation
from stm.data.decode.pictures import (
    UPRIGHT,
    Matrix,
    RgbConverter,
    display_matrix,
    mirrors,
    rotation_degrees,
)
from stm.data.decode.plan import PacketPlan, scan
from stm.data.decode.source import UNALIGNED, open_video
from stm.data.video import DEFAULT_LIMITS, VideoError, VideoInfo

# Containers whose display matrix decord reads.
_DECORD_TURNS = frozenset(["mov", "mp4"])


def probe_video(source: Any, max_pixels: int = DEFAULT_LIMITS.max_pixels) -> VideoInfo:
    """Return the facts of any source but a frame folder. See ``stm.data.decode.probe``.

    Raises:
        VideoError: If no frame can be decoded, or the first cannot be converted to RGB.
    """
    with open_video(source, max_pixels) as video:
        plan = scan(video)
        frames = sequential.all_frames(plan, [])
        # The rotation comes with decoded frames. A file without decodable frames is not a video.
        first = next(frames, None)
        if first is None:
            raise VideoError(video.name, "no_frames", "no frame can be decoded")
        has_fields = plan.may_hold_fields and first.interlaced_frame
        num_frames = plan.num_frames
        if plan.doubt or has_fields:
            num_frames = 1 + sum(1 for _ in frames)
        matrix = display_matrix(first)
        height, width, _ = RgbConverter(video.name, video.width, video.height)(first).shape
        rate = video.stream.average_rate or video.stream.guessed_rate or 0
        return VideoInfo(
            num_frames=num_frames,
            fps=float(rate),
            width=width,
            height=height,
            codec=video.context.codec.canonical_name,
            container=video.container.format.name,
            keyframe_interval=plan.keyframe_interval,
            rotation=rotation_degrees(matrix),
            guard=plan.guard or _guard_of_frame(plan, first, matrix),
        )


def guard(plan: PacketPlan) -> str:
    """Return why decord cannot be trusted with a file, from its packets and its first frame; or ""."""
    if plan.guard:
        return plan.guard
    first = sequential.first_frame(plan)
    return _guard_of_frame(plan, first, display_matrix(first)) if first else "no frame decodes"


def _guard_of_frame(plan: PacketPlan, frame: Any, matrix: Matrix) -> str:
    """Why decord 0.6.0 would show other pixels, although it finds the right frame; or ""."""
    video = plan.video
    formats = frozenset(video.container.format.name.split(","))
    if matrix != UPRIGHT and (mirrors(matrix) or formats.isdisjoint(_DECORD_TURNS)):
        return "mirrored, or rotated by a matrix that decord does not read"
    if states_orientation(video.context.name, video.context.extradata or b"", plan.head):
        return "rotated by a message in the stream"
    if frame.format.name == "pal8":
        return "a palette"
    if (frame.width, frame.height) != (video.width, video.height):
        return "frames whose size differs from the header's"
    return "cropped at the left" if _crops_left(plan) else ""


def _crops_left(plan: PacketPlan) -> bool:
    """Whether frames are larger if FFmpeg may not crop at any pixel, as in decord."""
    context = plan.video.context
    if (context.coded_width, context.coded_height) == (context.width, context.height):
        return False
    context.flags &= ~int(UNALIGNED)
    first = sequential.first_frame(plan)
    context.flags |= int(UNALIGNED)
    size = (plan.video.width, plan.video.height)
    return first is not None and (first.width, first.height) != size

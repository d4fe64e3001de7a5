"""The facts of a video file: its true length, its displayed size, whether decord may be trusted."""

from __future__ import annotations

from typing import Any

from stm.data.decode import sequential
from stm.data.decode.pictures import display_matrix, rotation_degrees
from stm.data.decode.plan import scan
from stm.data.decode.source import open_video
from stm.data.decode.video import VideoError, VideoInfo


def probe_video(source: Any) -> VideoInfo:
    """See ``stm.data.decode.probe``; for anything but a frame folder.

    Raises:
        VideoError: If no frame can be decoded.
    """
    with open_video(source) as video:
        plan = scan(video)
        frames = sequential.all_frames(plan, [])
        # Rotation travels with decoded frames, and a file of which nothing decodes is no video.
        first = next(frames, None)
        if first is None:
            raise VideoError(video.name, "no_frames", "no frame can be decoded")
        matrix = display_matrix(first)
        has_fields = plan.may_hold_fields and first.interlaced_frame
        num_frames = plan.num_frames
        if plan.doubt or has_fields:
            num_frames = 1 + sum(1 for _ in frames)
        width, height = video.width or first.width, video.height or first.height
        if matrix[0] == 0:
            width, height = height, width
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
            guard=plan.guard,
        )

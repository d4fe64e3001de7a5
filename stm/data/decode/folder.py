"""Folders of frame images, one file a frame, as Something-Something and Jester are published."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from stm.data.decode.frame_names import pick_series
from stm.data.decode.images import read_image
from stm.data.shards import is_shard_path, read_images, read_some_images
from stm.data.video import DEFAULT_LIMITS, Geometry, VideoError, VideoInfo, label


def list_frames(folder: str | os.PathLike[str]) -> list[str] | list[bytes]:
    """Paths of the folder's images in frame order: by name, numbers by value (2.jpg before 10.jpg).

    Of several series in one folder (``img_00001.jpg`` beside ``flow_x_00001.jpg``) the RGB one is
    taken. For a row of a shard its images themselves.

    Raises:
        VideoError: ``empty``, if there is no image; ``ambiguous``, if there are several series and
            it is unclear which is the video; ``permission_denied``.
    """
    if is_shard_path(folder):
        return read_images(os.fspath(folder))
    try:
        names = os.listdir(folder)
    except PermissionError as error:
        raise VideoError(label(folder), "permission_denied", "this user may not list it") from error
    try:
        frames = pick_series(names)
    except ValueError as error:
        raise VideoError(label(folder), "ambiguous", str(error)) from error
    if not frames:
        raise VideoError(label(folder), "empty", "the folder holds no image")
    return [os.path.join(folder, name) for name in frames]


def probe(folder: str | os.PathLike[str], max_pixels: int = DEFAULT_LIMITS.max_pixels) -> VideoInfo:
    """The facts of a frame folder: its images counted, the first one decoded.

    Raises:
        VideoError: If there is no image, or the first cannot be read.
    """
    images, number = _some_frames(folder, [0])
    height, width, _ = read_image(images[0], max_pixels).shape
    return VideoInfo(
        num_frames=number,
        fps=0.0,
        width=width,
        height=height,
        codec="jpeg-folder",
        container="folder",
        keyframe_interval=1,
        rotation=0,
        guard="a folder of frames",
    )


def read(
    folder: str | os.PathLike[str],
    wanted: list[int],
    collector: Any,
    expected: Geometry | None = None,
    max_pixels: int = DEFAULT_LIMITS.max_pixels,
) -> Any:
    """Fill ``collector`` with the wanted frames (distinct, ascending) and return it.

    Raises:
        VideoError: ``bad_index``, ``changed`` where there are not as many as ``expected``, or
            ``unreadable`` with the image's name.
    """
    images, number = _some_frames(folder, wanted)
    if expected is not None:
        expected.check_length(label(folder), number)
    if wanted[-1] >= number:
        raise VideoError(
            label(folder), "bad_index", f"frame {wanted[-1]} of a folder of {number} frames"
        )
    for slot, k in enumerate(wanted):
        try:
            collector.put(slot, read_image(images[k], max_pixels))
        except VideoError as error:
            if isinstance(images[k], bytes):  # it has no name of its own
                raise VideoError(
                    label(folder), error.reason, f"frame {k}: {error.detail}"
                ) from error
            raise
    return collector


def _some_frames(
    folder: str | os.PathLike[str], wanted: list[int]
) -> tuple[Mapping[int, str | bytes], int]:
    """At least the wanted images, as far as there are such, and how many there are in all."""
    if is_shard_path(folder):
        return read_some_images(os.fspath(folder), wanted)
    paths = list_frames(folder)
    return dict(enumerate(paths)), len(paths)

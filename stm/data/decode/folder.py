"""Read folders of frame images, one file per frame: Something-Something and Jester have this format."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from stm.data.decode.frame_names import pick_series
from stm.data.decode.images import read_image
from stm.data.shards import is_shard_path, read_images, read_some_images
from stm.data.video import DEFAULT_LIMITS, Geometry, VideoError, VideoInfo, label


def list_frames(folder: str | os.PathLike[str]) -> list[str] | list[bytes]:
    """Return the paths of the folder's images in frame order: by number, so 2.jpg comes before 10.jpg.

    If the folder has several series (``img_00001.jpg`` beside ``flow_x_00001.jpg``), the RGB series is
    returned. For a row of a shard, the encoded images are returned instead of paths.

    Raises:
        VideoError: ``empty`` if there are no images; ``ambiguous`` if there are several series and it
            is unclear which one is the video; ``permission_denied``.
    """
    if is_shard_path(folder):
        return read_images(os.fspath(folder))
    try:
        names = os.listdir(folder)
    except PermissionError as error:
        raise VideoError(
            label(folder), "permission_denied", "this user may not list the folder"
        ) from error
    try:
        frames = pick_series(names)
    except ValueError as error:
        raise VideoError(label(folder), "ambiguous", str(error)) from error
    if not frames:
        raise VideoError(label(folder), "empty", "the folder contains no images")
    return [os.path.join(folder, name) for name in frames]


def probe(folder: str | os.PathLike[str], max_pixels: int = DEFAULT_LIMITS.max_pixels) -> VideoInfo:
    """Return the facts of a frame folder, from the number of its images and the first image.

    Raises:
        VideoError: As in ``list_frames``, or if the first image cannot be read.
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
        VideoError: ``bad_index``; ``changed`` if the number of images is not the expected one;
            otherwise as in ``list_frames`` and ``read_image``.
    """
    images, number = _some_frames(folder, wanted)
    if expected is not None:
        expected.check_length(label(folder), number)
    if wanted[-1] >= number:
        raise VideoError(
            label(folder),
            "bad_index",
            f"frame {wanted[-1]} was requested, but the frame count is {number}",
        )
    for slot, k in enumerate(wanted):
        try:
            collector.put(slot, read_image(images[k], max_pixels))
        except VideoError as error:
            if isinstance(images[k], bytes):  # an image of a shard has no name
                raise VideoError(
                    label(folder), error.reason, f"frame {k}: {error.detail}"
                ) from error
            raise
    return collector


def _some_frames(
    folder: str | os.PathLike[str], wanted: list[int]
) -> tuple[Mapping[int, str | bytes], int]:
    """At least those of the wanted images that exist, and the number of all images."""
    if is_shard_path(folder):
        return read_some_images(os.fspath(folder), wanted)
    paths = list_frames(folder)
    return dict(enumerate(paths)), len(paths)

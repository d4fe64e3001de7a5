"""Read images from a client as the frames of one video: a zip or tar file, or several files of a form.

Nothing is unpacked to a disk, and no name is opened. Names only decide which images are frames and in which order, as
in a folder (``stm.data.decode.frame_names``). Before anything is unpacked, the sizes that an archive states are
checked:

    files       at most ``MOST_FILES``
    bytes       at most ``MOST_IMAGE_BYTES`` for each image, and in total the memory limit of the decoder
    pixels      the same limit as for all images

Only the frames that the clip needs are unpacked, one at a time.
"""

from __future__ import annotations

import io
import posixpath
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from stm.data.decode import VideoError, VideoInfo
from stm.data.decode.frame_names import is_image_name, pick_series
from stm.data.decode.images import read_image
from stm.data.decode.resize import pixel_box, resize_clip
from stm.data.stream import transforms
from stm.data.stream.clips import ClipSpec
from stm.data.video import naming_failures

MOST_FILES = 20_000
MOST_IMAGE_BYTES = 64 * 2**20
NAME = "<images>"
_ZIP_ENTRY, _ZIP_FILE = b"PK\x01\x02", b"PK\x03\x04"
_TAR_MAGIC = slice(257, 262)
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError)
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

Images = list[tuple[str, bytes]]
"""(name as sent, bytes of the image file), in any order."""


@dataclass(frozen=True)
class _Entry:
    """A file of an archive or a form, which has not been read yet."""

    name: str
    num_bytes: int
    read: Callable[[], bytes]


def is_archive(data: bytes) -> bool:
    """Whether the first bytes of an upload are those of a zip or tar file."""
    return data.startswith(_ZIP_FILE) or data[_TAR_MAGIC] == b"ustar"


def decode_archive(data: bytes, clip: ClipSpec, most_bytes: int) -> tuple[np.ndarray, VideoInfo]:
    """Return the clip of the images in a zip or tar file, uint8 [T, size, size, 3], and its facts.

    Raises:
        VideoError: ``too_large``, ``empty`` (no image), ``ambiguous`` (images in several folders or of several series),
            ``unreadable`` (a damaged archive), or as ``read_image``.
    """
    with naming_failures(NAME):
        try:
            entries = _entries_of_zip(data) if data.startswith(_ZIP_FILE) else _entries_of_tar(data)
            return _decode(list(_counted(entries, most_bytes)), clip)
        except _DAMAGE as error:
            raise VideoError(NAME, "unreadable", f"a damaged archive: {error!s:.200}") from error


def decode_images(images: Images, clip: ClipSpec, most_bytes: int) -> tuple[np.ndarray, VideoInfo]:
    """Return the same for images that were sent as separate files. Raises as ``decode_archive`` does."""
    with naming_failures(NAME):
        entries = (_Entry(name, len(data), partial(bytes, data)) for name, data in images)
        return _decode(list(_counted(entries, most_bytes)), clip)


def _counted(entries: Iterator[_Entry], most_bytes: int) -> Iterator[_Entry]:
    """Yield the entries that are images; ``VideoError`` if they exceed the limits."""
    total = 0
    for number, entry in enumerate(entries):
        if number >= MOST_FILES:
            raise VideoError(NAME, "too_large", f"more than {MOST_FILES} files")
        if not is_image_name(posixpath.basename(entry.name)):
            continue
        total += entry.num_bytes
        if entry.num_bytes > MOST_IMAGE_BYTES or total > most_bytes:
            limits = f"{MOST_IMAGE_BYTES >> 20} MiB each or {most_bytes >> 20} MiB in total"
            raise VideoError(NAME, "too_large", f"its images are larger than {limits}")
        yield entry


def _entries_of_zip(data: bytes) -> Iterator[_Entry]:
    # Checked before `zipfile` makes an object for each entry.
    if data.count(_ZIP_ENTRY) > MOST_FILES:
        raise VideoError(NAME, "too_large", f"more than {MOST_FILES} files")
    archive = zipfile.ZipFile(io.BytesIO(data))

    def read(info: zipfile.ZipInfo) -> bytes:
        if info.flag_bits & 1:
            raise VideoError(NAME, "unreadable", f"{info.filename!r:.80} needs a password")
        if info.compress_type not in _COMPRESSIONS:
            raise VideoError(
                NAME, "unreadable", f"{info.filename!r:.80} is neither stored nor deflated"
            )
        with archive.open(info) as file:
            return file.read(info.file_size)

    for info in archive.infolist():
        if not info.is_dir():
            yield _Entry(info.filename, info.file_size, partial(read, info))


def _entries_of_tar(data: bytes) -> Iterator[_Entry]:
    archive = tarfile.open(fileobj=io.BytesIO(data), mode="r:")  # noqa: SIM115  (read from later)

    def read(member: tarfile.TarInfo) -> bytes:
        file = archive.extractfile(member)
        return file.read(member.size) if file else b""

    for number, member in enumerate(archive):
        if number >= MOST_FILES:
            raise VideoError(NAME, "too_large", f"more than {MOST_FILES} files")
        if member.isfile():  # links are ignored, and so never followed
            yield _Entry(member.name, member.size, partial(read, member))


def _decode(entries: list[_Entry], clip: ClipSpec) -> tuple[np.ndarray, VideoInfo]:
    frames = _in_order(entries)
    chosen = clip.window(len(frames))
    if callable(chosen):
        chosen = chosen(np.arange(len(frames)) / clip.rate(0.0))
    wanted: list[int] = np.asarray(chosen).tolist()
    most_pixels = clip.limits.max_pixels
    first = _read(frames[0], 0, most_pixels)
    height, width, _ = first.shape
    left, top, right, bottom = pixel_box(transforms.centre_box(width, height), width, height)
    parts: dict[int, np.ndarray] = {}
    for k in dict.fromkeys(wanted):
        image = first if k == 0 else _read(frames[k], k, most_pixels)
        if image.shape != first.shape:
            sizes = f"{width}x{height} and {image.shape[1]}x{image.shape[0]}"
            raise VideoError(NAME, "unreadable", f"its frames have different sizes: {sizes} pixels")
        parts[k] = resize_clip(image[None, top:bottom, left:right], clip.size)[0]
    info = VideoInfo(
        num_frames=len(frames),
        fps=0.0,
        width=width,
        height=height,
        codec="jpeg-folder",
        container="folder",
        keyframe_interval=1,
        rotation=0,
        guard="a folder of frames",
    )
    return np.stack([parts[k] for k in wanted]), info


def _in_order(entries: list[_Entry]) -> list[_Entry]:
    """Return the frames among the images, in the order of a frame folder."""
    folders: dict[str, dict[str, _Entry]] = {}
    for entry in entries:
        folder, name = posixpath.split(posixpath.normpath(entry.name.replace("\\", "/")))
        if any(map(_is_hidden, folder.split("/"))):
            continue
        inside = folders.setdefault(folder, {})
        if name in inside:
            raise VideoError(NAME, "ambiguous", f"two images have the name {name!r:.80}")
        inside[name] = entry
    if not folders:
        raise VideoError(NAME, "empty", "it has no image")
    if len(folders) > 1:
        raise VideoError(NAME, "ambiguous", f"images in {len(folders)} folders: send one video")
    (inside,) = folders.values()
    try:
        return [inside[name] for name in pick_series(inside)]
    except ValueError as error:
        raise VideoError(NAME, "ambiguous", str(error)) from error


def _is_hidden(folder: str) -> bool:
    return folder == "__MACOSX" or (folder.startswith(".") and folder not in (".", ".."))


def _read(entry: _Entry, number: int, most_pixels: int) -> np.ndarray:
    try:
        return read_image(entry.read(), most_pixels)
    except VideoError as error:
        raise VideoError(NAME, error.reason, f"frame {number}: {error.detail}") from error

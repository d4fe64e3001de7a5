"""Decode one image file to RGB as displayed, with the same pixels as Pillow.

    read_image("frames/00001.png")  # uint8 [height, width, 3]

JPEG images are decoded by simplejpeg, with the same libjpeg-turbo transform and upsampling as in
Pillow: the pixels are the same, in half the time. A damaged JPEG image is refused, where Pillow would
show grey or shifted blocks. Pillow decodes the other formats. All eight EXIF or XMP orientations are
applied. Other metadata is ignored, even if it is broken.
"""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image

from stm.data.regular_file import open_regular
from stm.data.video import DEFAULT_LIMITS, VideoError, check_pixels, label, naming_failures

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_JPEG_MAGIC = b"\xff\xd8\xff"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_STATES_ORIENTATION = (b"Exif\x00", b"tiff:Orientation")

# The PNG chunks that determine the pixels and the orientation.
_PNG_CHUNKS = frozenset([b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"IEND"])

# EXIF orientation -> (rows become columns, mirrored left to right, mirrored top to bottom), applied in this order.
_TURNS = {
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


def read_image(
    image: str | bytes, max_pixels: int = DEFAULT_LIMITS.max_pixels
) -> NDArray[np.uint8]:
    """Read an image from a path or bytes: uint8 [height, width, 3], RGB, oriented for display.

    Raises:
        VideoError: ``unreadable``, ``permission_denied``, ``not_found``, ``too_large``, or another
            reason of ``naming_failures``.
    """
    with naming_failures(image):
        data = image if isinstance(image, bytes) else _read(image)
        if not data:
            raise VideoError(label(image), "unreadable", "the image has zero bytes")
        try:
            pixels, orientation = _decode(label(image), data, max_pixels)
        except (MemoryError, VideoError):
            raise
        except Exception as error:  # Pillow's plugins raise nearly anything for damaged files
            detail = f"damaged image: {error!s:.200}"
            raise VideoError(label(image), "unreadable", detail) from error
        return _turned(pixels, orientation)


def _read(path: str) -> bytes:
    with open_regular(path) as file:
        return file.read()


def _decode(name: str, data: bytes, max_pixels: int) -> tuple[NDArray[np.uint8], int]:
    """(pixels as stored, EXIF orientation)."""
    if data.startswith(_JPEG_MAGIC):
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError:  # an unsupported sampling, or damage, which Pillow also finds
            height, width, colours = 0, 0, ""
        check_pixels(name, width, height, max_pixels)
        if colours in ("RGB", "YCbCr", "Gray"):
            pixels = simplejpeg.decode_jpeg(data, "RGB")
            stated = any(mark in data for mark in _STATES_ORIENTATION)
            return pixels, _orientation_of_bytes(data) if stated else 1
    try:
        return _decode_with_pillow(name, data, max_pixels)
    except (MemoryError, VideoError):
        raise
    except Exception:
        stripped = _without_side_data(data) if data.startswith(_PNG_MAGIC) else data
        if len(stripped) == len(data):
            raise
        return _decode_with_pillow(name, stripped, max_pixels)


def _decode_with_pillow(name: str, data: bytes, max_pixels: int) -> tuple[NDArray[np.uint8], int]:
    try:
        opened = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise VideoError(
            name, "too_large", f"it exceeds max_pixels {max_pixels}: {error}"
        ) from error
    except Image.UnidentifiedImageError as error:
        detail = "not a JPEG, PNG, WebP, BMP or TIFF image, or its header is damaged"
        raise VideoError(name, "unreadable", detail) from error
    with opened as image:
        check_pixels(name, *image.size, max_pixels)
        pixels = np.asarray(image.convert("RGB"))
        return pixels, _orientation(image)


def _orientation_of_bytes(data: bytes) -> int:
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            return _orientation(image)
    except Exception:  # ignore unreadable metadata
        return 1


def _orientation(image: Any) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # ignore broken EXIF and keep the pixels
        return 1


def _turned(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    transposed, mirrored, upside_down = _TURNS.get(orientation, (False, False, False))
    if transposed:
        pixels = pixels.swapaxes(0, 1)
    if mirrored:
        pixels = pixels[:, ::-1]
    return pixels[::-1] if upside_down else pixels


def _without_side_data(png: bytes) -> bytes:
    """Keep only ``_PNG_CHUNKS``, because Pillow refuses images with damaged or long text chunks."""
    kept = [_PNG_MAGIC]
    at = len(_PNG_MAGIC)
    while at + 12 <= len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        kind, body = png[at + 4 : at + 8], png[at + 4 : end - 4]
        is_whole = end <= len(png) and zlib.crc32(body) == int.from_bytes(png[end - 4 : end], "big")
        if kind in _PNG_CHUNKS and (is_whole or kind != b"eXIf"):
            kept.append(png[at:end])
        at = end
    return b"".join(kept)

"""Frame images: Pillow's RGB to the bit, in any order, after anything else, whatever comes with them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from stm.data.decode import Limits, VideoError, probe, read_frames, read_views
from stm.data.decode.images import read_image
from stm.data.shards import shard_path, write_shard
from stm.data.video import Geometry

MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16"),
}
OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "JPEG": ({}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 2}, {"quality": 30}),
    "PNG": ({}, {"optimize": True}),
    "WEBP": ({"lossless": True}, {"quality": 60}),
    "BMP": ({},),
    "TIFF": ({}, {"compression": "tiff_lzw"}),
}
SUFFIX = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}


def pillows_rgb(data: bytes) -> np.ndarray:
    """uint8 [height, width, 3]: the reference."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def encode(picture: np.ndarray, kind: str, mode: str, **options: Any) -> bytes:
    """An image file of a uint8 [height, width, 3] picture."""
    if mode == "I;16":
        wide = picture[..., 0].astype(np.uint16) * 257 + picture[..., 1]
        image = Image.fromarray(wide)
    else:
        image = Image.fromarray(picture).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[ExifTags.Base.Orientation] = orientation
    data[ExifTags.Base.Make] = "a camera"
    return data


@st.composite
def image_files(draw: st.DrawFn, size: tuple[int, int]) -> tuple[str, bytes]:
    """(suffix, image file) of any format, mode, options and metadata; ``size`` is as displayed."""
    kind = draw(st.sampled_from(sorted(MODES)))
    mode = draw(st.sampled_from(MODES[kind]))
    options = dict(draw(st.sampled_from(OPTIONS[kind])))
    width, height = size
    # TIFF keeps the orientation as a tag that Pillow writes for few modes.
    if kind in ("JPEG", "PNG", "WEBP") and draw(st.booleans()):
        orientation = draw(st.integers(1, 8))
        options["exif"] = exif(orientation)
        if orientation >= 5:
            width, height = height, width
    if kind in ("JPEG", "PNG", "WEBP") and draw(st.booleans()):
        options["icc_profile"] = draw(st.binary(min_size=128, max_size=300))
    if kind == "PNG" and draw(st.booleans()):
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_text("comment", draw(st.text(max_size=40)), zip=draw(st.booleans()))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    picture = random.integers(0, 256, (height, width, 3), np.uint8)
    return SUFFIX[kind], encode(picture, kind, mode, **options)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_a_folder_of_any_images_is_pillows_rgb_in_any_order_and_after_damage(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    size = (data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40)))
    files = data.draw(st.lists(image_files(size), min_size=1, max_size=6))
    folder = tmp_path_factory.mktemp("images")
    for k, (suffix, content) in enumerate(files):
        (folder / f"{k:05d}{suffix}").write_bytes(content)
    expected = [pillows_rgb(content) for _, content in files]
    if data.draw(st.booleans()):  # what a damaged image leaves behind meets no other
        broken = folder / "broken"
        broken.mkdir()
        suffix, content = files[0]
        cut = content[: len(content) * 2 // 3]
        (broken / f"0{suffix}").write_bytes(cut)
        try:
            left = pillows_rgb(cut)
        except Exception:
            with pytest.raises(VideoError):
                read_frames(broken, [0])
        else:  # the colour profile of a tiny TIFF is at its end: all pixels are there
            assert np.array_equal(read_frames(broken, [0])[0], left)
    info = probe(folder)
    assert (info.num_frames, info.width, info.height) == (len(files), *size)
    order = data.draw(st.lists(st.integers(0, len(files) - 1), min_size=1, max_size=10))
    for _ in range(2):
        frames = read_frames(folder, order)
        assert all(
            np.array_equal(frame, expected[k]) for frame, k in zip(frames, order, strict=True)
        )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_each_orientation_is_shown_as_pillow_shows_it(kind: str, orientation: int) -> None:
    picture = np.random.default_rng(orientation).integers(0, 256, (24, 40, 3), np.uint8)
    data = encode(picture, kind, "RGB", exif=exif(orientation))
    assert np.array_equal(read_image(data), pillows_rgb(data))
    turned = orientation in (5, 6, 7, 8)
    assert read_image(data).shape == ((40, 24, 3) if turned else (24, 40, 3))


def test_an_orientation_in_xmp_is_taken_too() -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    picture = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    data = encode(picture, "JPEG", "RGB", xmp=xmp)
    assert read_image(data).shape == (40, 24, 3)
    assert np.array_equal(read_image(data), pillows_rgb(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("block", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"x" * 999])
def test_broken_metadata_stops_no_image(kind: str, block: bytes) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    data = encode(picture, kind, "RGB", exif=block or b"\0")
    plain = encode(picture, kind, "RGB")
    assert np.array_equal(read_image(data), read_image(plain))


def test_texts_that_pillow_refuses_stop_no_png() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    plain = encode(picture, "PNG", "RGB")
    bomb = b"workflow\0\0" + zlib.compress(b"x" * 3_000_000)
    for kind, body in ((b"zTXt", bomb), (b"iTXt", b"broken"), (b"iCCP", b"broken\0\0broken")):
        chunk = kind + body
        chunk = struct.pack(">I", len(body)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        assert np.array_equal(read_image(plain[:33] + chunk + plain[33:]), picture)


def test_photoshops_ycck_is_pillows_rgb() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    data = bytearray(encode(picture, "JPEG", "CMYK"))
    data[data.index(b"Adobe") + 11] = 2  # the transform: YCCK
    assert simplejpeg.decode_jpeg_header(bytes(data))[2] == "YCCK"
    assert np.array_equal(read_image(bytes(data)), pillows_rgb(bytes(data)))


def test_images_in_a_shard_are_those_of_the_folder(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = [
        encode(random.integers(0, 256, (24, 40, 3), np.uint8), kind, mode)
        for kind, mode in (("PNG", "RGB"), ("PNG", "P"), ("JPEG", "L"), ("WEBP", "RGBA"))
    ]
    write_shard(tmp_path / "a.parquet", [("video", images)])
    frames = read_frames(shard_path(tmp_path / "a.parquet", 0), [3, 0, 1, 2, 1])
    for frame, k in zip(frames, [3, 0, 1, 2, 1], strict=True):
        assert np.array_equal(frame, pillows_rgb(images[k]))


@pytest.mark.parametrize("kind", sorted(MODES))
def test_a_truncated_image_is_unreadable(tmp_path: Path, kind: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encode(picture, kind, "RGB")
    path = tmp_path / f"0{SUFFIX[kind]}"
    for length in (1, 2, 10, len(data) // 2, len(data) * 9 // 10):
        path.write_bytes(data[:length])
        with pytest.raises(VideoError) as caught:
            read_image(str(path))
        assert caught.value.reason == "unreadable"
        assert caught.value.path == str(path)


def test_flipped_bits_of_a_jpeg_are_refused_more_often_than_pillow_refuses_them() -> None:
    random = np.random.default_rng(0)
    ramp = np.linspace(0, 255, 96).astype(np.uint8)
    data = encode(np.dstack([np.add.outer(ramp, ramp[::-1]) // 2] * 3), "JPEG", "RGB")
    refused = by_pillow = 0
    for _ in range(300):
        damaged = bytearray(data)
        damaged[random.integers(700, len(data) - 2)] ^= 1 << random.integers(8)
        try:
            read_image(bytes(damaged))
        except VideoError:
            refused += 1
        try:
            pillows_rgb(bytes(damaged))
        except OSError:
            by_pillow += 1
    assert refused > 30 > by_pillow


def test_larger_images_than_allowed_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
    png += struct.pack(">I", zlib.crc32(chunk)) + b"\0\0\0\0IDAT" + struct.pack(">I", 0x35AF061E)
    bmp = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54)
    bmp += struct.pack("<IiiHHIIiiII", 40, 30000, 30000, 1, 24, 0, 0, 0, 0, 0, 0)
    jpeg = bytearray(encode(np.zeros((16, 16, 3), np.uint8), "JPEG", "RGB"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 30000, 30000)
    for name, data in (("0.png", png), ("0.bmp", bmp), ("0.jpg", bytes(jpeg))):
        folder = tmp_path / name[2:]
        folder.mkdir()
        (folder / name).write_bytes(data)
        with pytest.raises(VideoError) as caught:
            probe(folder)
        assert caught.value.reason == "too_large"
        assert "max_pixels" in caught.value.detail
        assert "--" not in caught.value.detail  # whoever reads it may have no such option
    small = encode(np.zeros((40, 40, 3), np.uint8), "PNG", "RGB")
    assert read_image(small, max_pixels=1600).shape == (40, 40, 3)
    with pytest.raises(VideoError):
        read_image(small, max_pixels=1599)
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "0.png").write_bytes(small)
    with pytest.raises(VideoError):
        read_frames(tmp_path / "small", [0], limits=Limits(max_pixels=1599))


def test_an_image_of_another_size_than_planned_is_changed(tmp_path: Path) -> None:
    for k, side in enumerate((40, 40, 48)):
        picture = np.zeros((24, side, 3), np.uint8)
        (tmp_path / f"{k}.png").write_bytes(encode(picture, "PNG", "RGB"))
    box, planned = (0, 0, 24, 24), Geometry(3, 40, 24)
    assert read_views(tmp_path, [0, 1], [box], 24, expected=planned).shape == (1, 2, 24, 24, 3)
    for indices, expected, reason in (
        ([2], planned, "changed"),
        ([0, 2], planned, "unreadable"),  # its own images disagree
        ([0], Geometry(2, 40, 24), "changed"),
        ([0], Geometry(4, 40, 24), "changed"),
        ([0], Geometry(3, 36, 24), "changed"),
    ):
        with pytest.raises(VideoError) as caught:
            read_views(tmp_path, indices, [box], 24, expected=expected)
        assert caught.value.reason == reason

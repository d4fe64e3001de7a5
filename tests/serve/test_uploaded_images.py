"""Images that a client sends are one video, and what an archive may cost is settled before it is unpacked."""

from __future__ import annotations

import asyncio
import io
import struct
import tarfile
import zipfile
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from stm.data.decode import Limits, VideoError, probe
from stm.data.stream.clips import ClipSpec, load_views
from stm.serve import frames
from stm.serve.decoder import Decoder
from stm.serve.frames import decode_archive, decode_images
from stm.serve.uploads import Decoded, Refused, decode_upload

CLIP = ClipSpec(num_segments=4, size=32)
ROOM = 2**30
NAMES = [f"img_{k}.png" for k in range(8, 14)]  # by number, not by letter


def png(value: int = 0, width: int = 60, height: int = 48) -> bytes:
    pixels = np.random.default_rng(value).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


IMAGES = [(name, png(k)) for k, name in enumerate(NAMES)]


def zipped(files: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return file.getvalue()


def tarred(files: list[tuple[str, bytes]], *links: tuple[str, str]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return file.getvalue()


@pytest.mark.parametrize(
    "send",
    [
        lambda files: zipped(files),
        lambda files: zipped(files, zipfile.ZIP_DEFLATED),
        lambda files: zipped([(f"clips/a/{name}", data) for name, data in files]),
        lambda files: zipped([("clip\\" + name, data) for name, data in files]),
        lambda files: tarred(files),
        lambda files: tarred([(f"./a/{name}", data) for name, data in files]),
        lambda files: files,
    ],
)
@pytest.mark.parametrize(
    "window",
    [{}, {"sampling": "dense", "frame_stride": 1}, {"sampling": "seconds", "window_s": 0.3}],
    ids=["segments", "dense", "seconds"],
)
def test_images_are_the_video_that_a_folder_of_them_is(send, window, tmp_path):
    clip = replace(CLIP, **window)
    folder = tmp_path / "frames"
    folder.mkdir()
    for name, data in IMAGES:
        (folder / name).write_bytes(data)
    info = probe(str(folder))
    views, _ = load_views(str(folder), info.num_frames, info.width, info.height, 0, 0, clip)
    beside = [("README.txt", b"text"), (".DS_Store", b"x"), ("._img_9.png", b"x")]
    found = decode_upload(send([*IMAGES[::-1], *beside]), clip, 2**40)
    assert isinstance(found, Decoded)
    assert found.info == info
    assert np.array_equal(found.clip, views[0])


def large(num_bytes: int) -> bytes:
    return zipped([("1.png", bytes(num_bytes))], zipfile.ZIP_DEFLATED)


def announcing(width: int, height: int) -> bytes:
    """A PNG whose header claims so many pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body
    return head + struct.pack(">I", zlib.crc32(body)) + png()[33:]


def encrypted() -> bytes:
    data = bytearray(zipped(IMAGES))
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = -1
        while (place := data.find(mark, place + 1)) >= 0:
            data[place + at] |= 1
    return bytes(data)


@pytest.mark.parametrize(
    ("archive", "reason", "detail"),
    [
        (lambda: large(frames.MOST_IMAGE_BYTES + 1), "too_large", "MiB each"),
        (lambda: zipped([(f"{k}.png", bytes(2**26)) for k in range(17)], zipfile.ZIP_DEFLATED),
         "too_large", "1024 MiB in total"),
        (lambda: zipped([(f"{k}.txt", b"") for k in range(frames.MOST_FILES + 1)]),
         "too_large", "more than 20000 files"),
        (lambda: tarred([], *[(f"{k}", "x") for k in range(frames.MOST_FILES + 1)]),
         "too_large", "more than 20000 files"),
        (lambda: zipped([("1.png", announcing(9000, 9000))]), "too_large", "9000x9000"),
        (lambda: zipped([("1.txt", b"text")]), "empty", "no image"),
        (lambda: tarred([], ("1.png", "/etc/passwd")), "empty", "no image"),
        (lambda: zipped([("a/1.png", png()), ("b/1.png", png())]), "ambiguous", "2 folders"),
        (lambda: zipped([("1.png", png()), ("./1.png", png())]), "ambiguous", "two images"),
        (lambda: zipped(IMAGES)[:-30], "unreadable", "damaged archive"),
        (lambda: tarred(IMAGES)[:9000], "unreadable", ""),
        (lambda: encrypted(), "unreadable", "password"),
        (lambda: zipped(IMAGES, zipfile.ZIP_BZIP2), "unreadable", "neither stored nor deflated"),
        (lambda: zipped([("1.png", png()), ("2.png", png(1, 50))]), "unreadable", "60x48 and 50x48"),
        (lambda: zipped([("1.png", b"text")]), "unreadable", "frame 0"),
    ],
)  # fmt: skip
def test_an_archive_that_is_no_video_or_takes_too_much_is_refused_by_name(archive, reason, detail):
    with pytest.raises(VideoError) as refused:
        decode_archive(archive(), CLIP, ROOM)
    assert refused.value.reason == reason
    assert detail in refused.value.detail


def test_the_pixels_of_a_run_are_the_limit_here_too():
    small = replace(CLIP, limits=Limits(max_pixels=60 * 48 - 1))
    with pytest.raises(VideoError) as refused:
        decode_images(IMAGES, small, ROOM)
    assert refused.value.reason == "too_large"


def test_images_sent_one_by_one_have_the_same_limits():
    with pytest.raises(VideoError) as refused:
        decode_images([("1.png", bytes(600)), ("2.png", bytes(600))], CLIP, 1000)
    assert refused.value.reason == "too_large"


def test_the_server_answers_what_comes_after_a_bomb():
    decoder = Decoder(CLIP, 20.0, 2**28)
    bomb = zipped([("1.png", bytes(2**25))] * 1, zipfile.ZIP_DEFLATED)
    sent = [zipped(IMAGES), bomb, large(2**27), IMAGES]
    answers = [asyncio.run(decoder.decode(data)) for data in sent]
    assert isinstance(answers[0], Decoded)
    assert isinstance(answers[3], Decoded)
    assert np.array_equal(answers[0].clip, answers[3].clip)
    assert all(isinstance(answer, Refused) and answer.status == 422 for answer in answers[1:3])

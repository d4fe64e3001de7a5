"""Whatever a library raises while it works at a video is that video's failure, and no other's.

Each library call on the way from a path to a clip raises each of the exceptions of ``faults.EXCEPTIONS``, for one
of three videos; the others are answered as without it.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stm.data import decode
from stm.data import shards as shards_module
from stm.data.decode import VideoError, probe, source
from stm.data.shards import shard_path, write_shard
from stm.data.stream.clips import ClipSpec, load_views
from tests.data.faults import EXCEPTIONS, injected
from tests.videos import numbered_frame, write_frame_folder, write_video

pytestmark = pytest.mark.long

SPEC = ClipSpec(num_segments=2, size=32)
NUM_FRAMES = 6

_CUTTING = ["empty", "interpolate", "centre_indices", "centre_box", "limit"]
_DECODING = [
    *("av.open", "demux", "streams", "decode", "flush"),
    *("frame.side_data", "frame.planes", "frombuffer", *_CUTTING),
]
_IMAGES = ["jpeg.header", "jpeg.decode", *_CUTTING]
_SHARD = ["shard.open", "open", "fstat", "fdopen", "read_metadata", "json.loads", "frombuffer"]
CALLS_OF = {
    "path": ["stat", "reformat", *_DECODING],
    "path_444": ["graph.configure", "graph.push", "graph.pull", *_DECODING],
    "bytes": ["BytesIO", "reformat", *_DECODING],
    "url": ["url_to_fs", "url.size", "url.cat_file", "BytesIO", "reformat", *_DECODING],
    "url_large": ["url_to_fs", "url.size", "url.open", "reformat", *_DECODING],
    "jpeg_folder": ["stat", "listdir", "open", "fstat", "fdopen", *_IMAGES],
    "exif_folder": ["Image.open", "getexif", *_IMAGES],
    "png_folder": ["listdir", "BytesIO", "Image.open", "Image.convert", "getexif", *_CUTTING],
    "shard_video": [*_SHARD, "BytesIO", "reformat", *_DECODING],
    "shard_images": [*_SHARD, *_IMAGES],
    "decord": ["VideoReader", "VideoReader.len", "get_batch", *_DECODING],
}
# What is wrong with metadata alone stops no image.
MAY_BE_ANSWERED = {
    "getexif",
    "jpeg.header",
    ("exif_folder", "Image.open"),
    ("png_folder", "Image.open"),
}


def _videos(folder: Path, **changes: Any) -> list[str]:
    options = {"num_frames": NUM_FRAMES, "options": {"g": "3"}, **changes}
    return [
        str(write_video(folder / f"{name}.mp4", seed=k, **options)) for k, name in enumerate("abc")
    ]


def _folder(path: Path, suffix: str, **options: Any) -> str:
    path.mkdir()
    for k in range(NUM_FRAMES):
        Image.fromarray(numbered_frame(k, 64, 48)).save(path / f"{k:05d}{suffix}", **options)
    return str(path)


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, list[Any]]:
    """Three videos of each kind of source; the second will fail."""
    root = tmp_path_factory.mktemp("faults")
    for name in ("mp4", "444", "jpeg", "exif", "png"):
        (root / name).mkdir()
    paths = _videos(root / "mp4")
    files = [Path(path).read_bytes() for path in paths]
    exif = Image.Exif()
    exif[0x0112] = 1
    import fsspec

    urls = []
    for name, data in zip("abc", files, strict=True):
        urls.append(f"memory://faults/{name}.mp4")
        with fsspec.open(urls[-1], "wb") as file:
            file.write(data)
    jpegs = [str(write_frame_folder(root / "jpeg" / n, num_frames=NUM_FRAMES)) for n in "abc"]
    # A file for each row: a fault is met where a shard is opened, too.
    rows, images = [], []
    for name, data, folder in zip("abc", files, jpegs, strict=True):
        frames = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
        for kind, payload, found in (("v", data, rows), ("i", frames, images)):
            write_shard(root / f"{kind}{name}.parquet", [(name, payload)])
            found.append(shard_path(root / f"{kind}{name}.parquet", 0))
    return {
        "path": paths,
        "path_444": _videos(root / "444", pix_fmt="yuv444p"),
        "bytes": files,
        "url": urls,
        "url_large": urls,
        "jpeg_folder": jpegs,
        "exif_folder": [_folder(root / "exif" / n, ".jpg", exif=exif) for n in "abc"],
        "png_folder": [_folder(root / "png" / name, ".png") for name in "abc"],
        "shard_video": rows,
        "shard_images": images,
        "decord": paths,
    }


def _clip(kind: str, video: Any, info: decode.VideoInfo) -> np.ndarray:
    spec = ClipSpec(num_segments=2, size=32, decoder="decord" if kind == "decord" else "auto")
    return load_views(video, info.num_frames, info.width, info.height, 0, 0, spec)[0]


def _answer(function: Any, *arguments: Any) -> Any:
    """What it returns, or the VideoError, as it is after a way between processes."""
    try:
        return function(*arguments)
    except VideoError as error:
        return pickle.loads(pickle.dumps(error))


def _same(a: Any, b: Any) -> bool:
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else bool(a == b)


@pytest.mark.parametrize(
    ("kind", "call"), [(kind, call) for kind, calls in CALLS_OF.items() for call in calls]
)
def test_what_a_call_raises_at_one_video_is_its_failure_alone(sources, monkeypatch, kind, call):
    if kind == "decord":
        pytest.importorskip("decord")
    if kind == "url_large":
        monkeypatch.setattr(source, "FETCH_WHOLE_BYTES", 0)
    videos = sources[kind]
    infos = [probe(video) for video in videos]
    expected = [[info, _clip(kind, v, info)] for v, info in zip(videos, infos, strict=True)]
    for number, (name, make) in enumerate(EXCEPTIONS.items()):
        other = 2 * (number % 2)
        shards_module._kept.clear()
        with injected(call, make, videos[1]) as fault:
            found = [_answer(probe, videos[1]), _answer(_clip, kind, videos[1], infos[1])]
            clip = _answer(_clip, kind, videos[other], infos[other])
        assert fault.num_raised, f"{call} is not on the way of {kind}"
        assert _same(clip, expected[other][1]), (name, clip)
        failures = [answer for answer in found if isinstance(answer, VideoError)]
        answered = [
            (answer, right)
            for answer, right in zip(found, expected[1], strict=True)
            if not isinstance(answer, VideoError)
        ]
        assert all(error.reason for error in failures)
        if not {call, (kind, call)} & MAY_BE_ANSWERED:
            assert failures, (name, found)
        assert all(_same(*pair) for pair in answered), (name, answered)

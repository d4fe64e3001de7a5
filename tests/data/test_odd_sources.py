"""What may lie where a video is expected: named at once, and never waited for."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

from stm.data.decode import DEFAULT_LIMITS, VideoError, probe
from stm.data.isolation import IsolatedProcess
from stm.data.stream.clips import ClipSpec, load_views
from tests.data.probes import reasons_and_growth
from tests.videos import numbered_frame, write_frame_folder, write_jpeg, write_video

SPEC = ClipSpec(num_segments=2, size=32)


@pytest.fixture(scope="module")
def process():
    """What hangs, hangs there."""
    with IsolatedProcess(preload=["stm.data.decode.probing", "torch", "PIL.Image"]) as process:
        yield process


def _make(kind: str, path: Path) -> None:
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.relpath(path))  # an absolute path may be too long for it
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    else:
        path.symlink_to({"endless": "/dev/zero", "null": "/dev/null", "broken": "nowhere"}[kind])


KINDS = {
    "fifo": "unsupported_source",
    "socket": "unsupported_source",
    "endless": "unsupported_source",
    "null": "unsupported_source",
    "broken": "not_found",
    "loop": "unreadable",
    "folder": "empty",
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_named_as_a_video_an_image_and_a_shard(
    process, tmp_path, monkeypatch, kind
):
    monkeypatch.chdir(tmp_path)
    _make(kind, tmp_path / "a.mp4")
    _make(kind, tmp_path / "a.parquet")
    frames = write_frame_folder(tmp_path / "frames", num_frames=4)
    for path in sorted(frames.iterdir()):
        path.unlink()
        _make(kind, path)
    reason = KINDS[kind]
    in_a_folder = {"socket": "unreadable", "folder": "unsupported_source"}.get(kind, reason)
    as_a_shard = {"broken": "not_found", "folder": "unsupported_source", "socket": "unreadable"}
    for source, expected in (
        (tmp_path / "a.mp4", reason),
        (frames, in_a_folder),
        (f"{tmp_path}/a.parquet#0", as_a_shard.get(kind, reason)),
    ):
        found = process.call(reasons_and_growth, str(source), DEFAULT_LIMITS, deadline_s=60)
        assert found[:2] == (expected, expected), source
        assert found[2] < 2**28


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "not_found"),
        ("a\0b.mp4", "failed"),
        ("x" * 5000, "unreadable"),
        ("\ud800.mp4", "failed"),
        ("pipe:0", "not_found"),
        ("-", "not_found"),
        ("concat:a.mp4|b.mp4", "not_found"),
        (None, "failed"),
        (5, "failed"),
    ],
)
def test_a_path_that_cannot_be_one_is_a_failure_with_a_short_word(path, reason):
    for read in (lambda: probe(path), lambda: load_views(path, 8, 160, 96, 0, 0, SPEC)):
        with pytest.raises(VideoError) as refused:
            read()
        assert refused.value.reason == reason
        assert len(refused.value.detail) < 300


def test_a_name_that_is_not_utf8_is_read_and_may_stand_in_every_message(tmp_path):
    video = write_video(tmp_path / "a.mp4", num_frames=4)
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4")
    shutil.copy(video, odd)
    assert probe(odd) == probe(str(video))
    frames = tmp_path / "frames"
    frames.mkdir()
    for series in (b"\xffa", b"\xffb"):
        for k in range(3):
            shutil.copy(
                write_jpeg(tmp_path / "one.jpg", numbered_frame(k)),
                os.fsencode(frames) + b"/" + series + b"_%05d.jpg" % k,
            )
    with pytest.raises(VideoError) as refused:
        probe(str(frames))
    assert refused.value.reason == "ambiguous"
    assert refused.value.detail.encode()  # as Arrow and terminals want it


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 80, "height": 48},
        {"width": 320, "height": 192},
        {"num_frames": 5},
        {"num_frames": 12},
    ],
)
@pytest.mark.parametrize("decoder", ["auto", "sequential", "decord"])
@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_another_file_at_the_path_is_changed_larger_or_smaller_longer_or_shorter(
    tmp_path, changes, decoder, suffix
):
    if decoder == "decord":
        pytest.importorskip("decord")
    path = tmp_path / f"a{suffix}"
    codec = "mpeg4" if suffix == ".avi" else "libx264"
    write_video(path, codec=codec, **{"num_frames": 8, **changes})
    spec = ClipSpec(num_segments=2, size=32, decoder=decoder)
    with pytest.raises(VideoError) as refused:
        load_views(str(path), 8, 160, 96, 0, 0, spec)
    assert refused.value.reason == "changed"
    assert "index it again" in refused.value.detail


def test_a_file_that_shrinks_while_it_is_read_is_a_failure_or_its_frames(tmp_path, monkeypatch):
    """The scan has seen all packets; large files are demuxed once more."""
    from stm.data.decode import packets, plan

    monkeypatch.setattr(plan, "KEEP_BYTES", 0)
    whole = write_video(tmp_path / "whole.ts", num_frames=48, options={"g": "6"})
    path = tmp_path / "a.ts"
    right, _ = load_views(str(whole), 48, 160, 96, 0, 0, SPEC)
    decode = packets.decode
    for share in (0.0, 0.3, 0.6, 0.9):
        shutil.copy(whole, path)

        def cut_before(*arguments, share=share):
            os.truncate(path, int(whole.stat().st_size * share))
            return decode(*arguments)

        monkeypatch.setattr(packets, "decode", cut_before)
        try:
            found, _ = load_views(str(path), 48, 160, 96, 0, 0, SPEC)
        except VideoError:
            continue
        assert (found == right).all()

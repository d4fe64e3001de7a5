"""The state of a source changes with whatever may change its frames, and with nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from stm.data.decode import VideoError, probe
from stm.data.index.indexing import _probe_block
from stm.data.source_state import source_state
from tests.videos import write_frame_folder


def state(path: Path) -> str:
    return source_state(str(path))[0]


def overwrite_with_more(folder: Path) -> None:
    (folder / "00002.jpg").write_bytes(b"other bytes")


def overwrite_with_as_many(folder: Path) -> None:
    target = folder / "00002.jpg"
    found = target.stat()
    target.write_bytes(b"x" * found.st_size)
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns - 10**9))  # older than the latest


def rename(folder: Path) -> None:
    (folder / "00002.jpg").rename(folder / "00009.jpg")


def swap(folder: Path) -> None:
    (folder / "00001.jpg").rename(folder / "between")
    (folder / "00002.jpg").rename(folder / "00001.jpg")
    (folder / "between").rename(folder / "00002.jpg")


def replace_link(folder: Path) -> None:
    link = folder / "00003.jpg"
    link.unlink()
    link.symlink_to("../b.jpg")


def change_target(folder: Path) -> None:
    (folder.parent / "a.jpg").write_bytes(b"new")


@pytest.mark.parametrize(
    "change",
    [overwrite_with_more, overwrite_with_as_many, rename, swap, replace_link, change_target],
)
def test_a_frame_that_changes_changes_the_folder_whose_own_time_stays(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    for name in ("a.jpg", "b.jpg"):  # alike in size and time
        (tmp_path / name).write_bytes(b"a picture")
        os.utime(tmp_path / name, ns=(10**18, 10**18))
    folder = write_frame_folder(tmp_path / "frames", num_frames=2)
    (folder / "00003.jpg").symlink_to("../a.jpg")
    (folder / "lost.jpg").symlink_to("../none.jpg")
    time = os.stat(folder).st_mtime_ns
    before = state(folder)
    assert before == state(folder) != ""
    change(folder)
    os.utime(folder, ns=(time, time))
    assert state(folder) != before


def test_a_folder_has_the_bytes_of_its_files(tmp_path: Path) -> None:
    folder = write_frame_folder(tmp_path / "frames", num_frames=3)
    assert source_state(str(folder))[1] == sum(path.stat().st_size for path in folder.iterdir())


def test_the_state_of_a_file_changes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    assert source_state(str(path)) == ("", 0)
    path.write_bytes(b"one")
    first = state(path)
    assert first == state(path) != ""
    path.write_bytes(b"three")
    assert state(path) != first
    assert source_state(path.as_uri())[0] != ""
    assert source_state(path.as_uri() + ".none") == ("", 0)
    assert source_state("a\0b") == ("", 0)


def test_a_link_changes_when_it_points_elsewhere(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"video")
        os.utime(tmp_path / name, ns=(10**18, 10**18))
    link = tmp_path / "link.mp4"
    link.symlink_to("a")
    before = state(link)
    link.unlink()
    link.symlink_to("b")
    assert state(link) != before


def test_a_copy_that_keeps_its_times_has_the_same_state(tmp_path: Path) -> None:
    folder = write_frame_folder(tmp_path / "frames", num_frames=3)
    assert state(Path(shutil.copytree(folder, tmp_path / "copy"))) == state(folder)


@pytest.mark.parametrize(
    ("url", "detail"),
    [("nowhere://host/a.mp4", "no store is known by nowhere://"), ("oci://b/a.mp4", "")],
)
def test_a_url_that_cannot_be_read_says_so_to_indexing_and_decoding_alike(
    url: str, detail: str
) -> None:
    for ask in (source_state, probe):
        with pytest.raises(VideoError) as refused:
            ask(url)
        assert refused.value.reason == "unsupported_url"
        assert detail in refused.value.detail
    block = pa.table({"row": [0], "path": [url], "known": [""]})
    found = _probe_block(block, probe=probe, deadline_s=60.0)
    assert found["status"].to_pylist() == ["unsupported_url"]
    assert detail in found["detail"][0].as_py()

"""What the files and folders on a command line stand for."""

from __future__ import annotations

from pathlib import Path

import pytest

from stm.data.finding import find_videos
from stm.errors import UserError


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(root: Path, *sources: str) -> list[str]:
    videos = find_videos([str(root / source) for source in sources])
    return [str(Path(video).relative_to(root)) for video in videos]


def test_a_folder_of_images_is_one_video_and_folders_of_both_give_both(tmp_path: Path) -> None:
    put(tmp_path, "one/2.PNG", "one/10.png", "set/a/1.jpg", "set/b/1.webp", "set/deep/c/1.bmp")
    put(tmp_path, "set/clip.mp4", "set/deep/film.AVI", "set/notes.txt", "set/.hidden/1.jpg")
    put(tmp_path, "mixed/1.jpg", "mixed/clip.mkv", "mixed/.1.jpg")
    assert found(tmp_path, "one") == found(tmp_path, "one/") == ["one"]
    inside = ["set/a", "set/b", "set/clip.mp4", "set/deep/c", "set/deep/film.AVI"]
    assert found(tmp_path, "set") == inside
    assert found(tmp_path, "mixed") == ["mixed/clip.mkv"]
    assert found(tmp_path, "set/b", "set", "set/notes.txt") == [
        "set/b", "set/a", "set/clip.mp4", "set/deep/c", "set/deep/film.AVI", "set/notes.txt",
    ]  # fmt: skip


def test_links_are_followed_once(tmp_path: Path) -> None:
    put(tmp_path, "frames/1.jpg")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "link").symlink_to("../frames")
    (tmp_path / "set" / "loop").symlink_to("../set")
    assert found(tmp_path, "set") == ["set/link"]


def test_rows_of_shards_and_urls_are_taken_as_they_are(tmp_path: Path) -> None:
    put(tmp_path, "s.parquet")
    assert found(tmp_path, "s.parquet#3") == ["s.parquet#3"]
    urls = ["s3://bucket/v.mp4", "s3://bucket/s.parquet#3"]
    assert find_videos(urls) == urls
    with pytest.raises(UserError, match="no such file or folder"):
        find_videos([str(tmp_path / "t.parquet#3")])


def test_a_folder_without_either_says_what_was_looked_for(tmp_path: Path) -> None:
    put(tmp_path, "notes.txt")
    with pytest.raises(
        UserError, match=r"neither a file \(.*\.mp4.*\) nor a folder of images \(.*\.png"
    ):
        find_videos([str(tmp_path)])

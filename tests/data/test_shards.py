"""Shards: a row is what was packed, wherever a path is read, and a bad one is named."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stm.data import decode, shards
from stm.data.shards import (
    holds_frames,
    is_shard_path,
    num_bytes_of_row,
    read_images,
    read_row,
    read_video,
    shard_path,
    split_shard_path,
    write_shard,
)
from tests.videos import write_frame_folder, write_video


@pytest.fixture
def random_rows() -> list[tuple[str, shards.Payload]]:
    generator = np.random.default_rng(0)
    return [(f"v{k}", generator.bytes(1000 + 37 * k)) for k in range(40)]


@pytest.fixture
def shard(tmp_path: Path, random_rows: list[tuple[str, shards.Payload]]) -> str:
    path = tmp_path / "shard-00000.parquet"
    assert write_shard(path, random_rows) == 40
    return str(path)


def reason(path: str) -> str:
    with pytest.raises(decode.VideoError) as caught:
        decode.read_frames(path, [0])
    assert caught.value.path == path
    return caught.value.reason


def test_the_path_of_a_row_is_told_from_other_paths() -> None:
    path = shard_path("s3://bucket/a b/shard-00000.parquet", 17)
    assert is_shard_path(path)
    assert split_shard_path(path) == ("s3://bucket/a b/shard-00000.parquet", 17)
    for other in (
        "a.mp4",
        "a.parquet",
        "a.parquet#",
        "a.parquet#x",
        "a.parquet#1.mp4",
        b"a.parquet#1",
    ):
        assert not is_shard_path(other)
    with pytest.raises(ValueError, match=r"a\.mp4"):
        split_shard_path("a.mp4")


def test_rows_come_back_as_they_were_in_any_order_and_from_a_url(
    shard: str, random_rows: list[tuple[str, shards.Payload]]
) -> None:
    for row in np.random.default_rng(1).permutation(40).tolist():
        assert read_video(shard_path(shard, row)) == random_rows[row][1]
        assert read_video(shard_path(Path(shard).as_uri(), row)) == random_rows[row][1]
        assert num_bytes_of_row(shard_path(shard, row)) == len(random_rows[row][1])


def test_a_shard_is_parquet_to_everybody_else_one_row_a_row_group(
    shard: str, random_rows: list[tuple[str, shards.Payload]]
) -> None:
    table = pq.read_table(shard)
    assert table.schema.names == ["video_id", "data"]
    assert list(zip(*table.to_pydict().values(), strict=True)) == random_rows
    assert pq.ParquetFile(shard).num_row_groups == 40


def test_reading_a_row_reads_only_that_row(
    shard: str, random_rows: list[tuple[str, shards.Payload]]
) -> None:
    read_row(shard_path(shard, 3))
    stat = os.stat(shard)
    whole = bytearray(Path(shard).read_bytes())
    wanted = random_rows[3][1]
    assert isinstance(wanted, bytes)
    start = whole.index(wanted)
    Path(shard).write_bytes(bytes(start) + wanted + bytes(len(whole) - start - len(wanted)))
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert read_row(shard_path(shard, 3)) == wanted  # everything else, the footer too, is zeros


def test_a_shard_that_was_replaced_is_read_anew(shard: str) -> None:
    read_row(shard_path(shard, 0))
    write_shard(shard, [("other", b"other bytes")])
    assert read_row(shard_path(shard, 0)) == b"other bytes"


def test_the_places_kept_in_a_process_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_kept", type(shards._kept)())
    monkeypatch.setattr(shards, "_MOST_ROWS_KEPT", 5)
    for k in range(4):
        write_shard(tmp_path / f"{k}.parquet", [(f"v{i}", bytes([k, i])) for i in range(2)])
    for k in (0, 1, 0, 2, 3, 0):
        assert read_row(shard_path(tmp_path / f"{k}.parquet", 1)) == bytes([k, 1])
        assert sum(len(index.places) for index in shards._kept.values()) <= 5
    assert [Path(path).name for path in shards._kept] == ["3.parquet", "0.parquet"]


def test_a_video_in_a_shard_is_read_as_its_file_is(tmp_path: Path) -> None:
    file = write_video(tmp_path / "a.mp4", num_frames=20, options={"g": "8", "bf": "2"})
    other = write_video(tmp_path / "b.mp4", num_frames=9, seed=1)
    write_shard(tmp_path / "s.parquet", [(p.name, p.read_bytes()) for p in (other, file)])
    row = shard_path(tmp_path / "s.parquet", 1)
    assert decode.probe(row) == decode.probe(str(file))
    assert not holds_frames(row)
    for decoder in decode.DECODERS:
        frames = decode.read_frames(row, [3, 19, 3, 0], decoder)
        assert (frames == decode.read_frames(str(file), [3, 19, 3, 0], decoder)).all()
    views = [(0, 0, 96, 96), (64, 0, 96, 96)]
    assert (
        decode.read_views(row, [1, 5], views, 48) == decode.read_views(str(file), [1, 5], views, 48)
    ).all()


def test_images_in_a_shard_are_read_as_their_folder_is(tmp_path: Path) -> None:
    folder = write_frame_folder(tmp_path / "frames", num_frames=12)
    images = [path.read_bytes() for path in sorted(folder.iterdir())]
    write_shard(tmp_path / "s.parquet", [("short", images[:1]), ("frames", images)])
    row = shard_path(tmp_path / "s.parquet", 1)
    assert read_images(row) == images
    assert holds_frames(row)
    assert not holds_frames(str(folder))
    assert decode.probe(row) == decode.probe(str(folder))
    frames = decode.read_frames(row, [11, 0, 5])
    assert (frames == decode.read_frames(str(folder), [11, 0, 5])).all()
    assert pq.read_table(tmp_path / "s.parquet")["frames"].to_pylist() == [images[:1], images]
    with pytest.raises(decode.VideoError, match="bad_index"):
        decode.read_frames(row, [12])


def test_a_clip_reads_its_own_images_only(tmp_path: Path) -> None:
    folder = write_frame_folder(tmp_path / "frames", num_frames=12)
    images = [path.read_bytes() for path in sorted(folder.iterdir())]
    shard = tmp_path / "s.parquet"
    write_shard(shard, [("frames", images)])
    row = shard_path(shard, 0)
    wanted = decode.read_frames(row, [2, 7])
    stat, whole = os.stat(shard), shard.read_bytes()
    for k in set(range(12)) - {2, 7}:
        stored = len(images[k]).to_bytes(4, "little") + images[k]
        assert whole.count(stored) == 1
        whole = whole.replace(stored, bytes(len(stored)))
    shard.write_bytes(whole)
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (decode.read_frames(row, [2, 7]) == wanted).all()
    assert reason(row) == "unreadable"  # image 0 is zeros


def test_damage_in_the_table_of_images_is_named(tmp_path: Path) -> None:
    images = [bytes([k]) * 50 for k in range(5)]
    write_shard(tmp_path / "s.parquet", [("frames", images)])
    whole = (tmp_path / "s.parquet").read_bytes()
    table = np.arange(54, 54 * 6, 54, "<i4").tobytes()
    assert whole.count(table) == 1
    for damaged in (table[4:8] + table[:4] + table[8:], table[:-4] + bytes(4), bytes(20)):
        (tmp_path / "s.parquet").write_bytes(whole.replace(table, damaged))
        with pytest.raises(decode.VideoError, match="damage in the table"):
            read_images(shard_path(tmp_path / "s.parquet", 0))


def test_a_damaged_image_is_refused_and_leaves_the_next_one_alone(tmp_path: Path) -> None:
    folder = write_frame_folder(tmp_path / "frames", num_frames=3)
    images = [path.read_bytes() for path in sorted(folder.iterdir())]
    write_shard(tmp_path / "s.parquet", [("cut", [images[0][:300], *images[1:]])])
    row = shard_path(tmp_path / "s.parquet", 0)
    for _ in range(2):
        assert reason(row) == "unreadable"
        frames = decode.read_frames(row, [1, 2])
        assert (frames == decode.read_frames(str(folder), [1, 2])).all()


def test_what_is_wrong_with_a_row_is_named(shard: str, tmp_path: Path) -> None:
    assert reason(shard_path(tmp_path / "none.parquet", 0)) == "not_found"
    assert reason(shard_path(shard, 40)) == "bad_row"
    assert reason(shard_path(shard, 0)) == "not_a_video"
    foreign = tmp_path / "foreign.parquet"
    pq.write_table(pa.table({"video_id": ["a"], "data": [b"x"]}), foreign)
    assert reason(shard_path(foreign, 0)) == "not_a_shard"
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(Path(shard).read_bytes()[:-100])
    assert reason(shard_path(cut, 0)) == "not_a_shard"
    write_shard(tmp_path / "images.parquet", [("a", [b"no image"])])
    with pytest.raises(decode.VideoError, match="unreadable"):
        decode.read_frames(shard_path(tmp_path / "images.parquet", 0), [0])
    with pytest.raises(decode.VideoError, match="not a video"):
        read_video(shard_path(tmp_path / "images.parquet", 0))
    with pytest.raises(decode.VideoError, match="not images"):
        read_images(shard_path(shard, 0))


def test_a_shard_of_another_version_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard(tmp_path / "old.parquet", [("a", [b"image"])])
    monkeypatch.setattr(shards, "VERSION", shards.VERSION + 1)
    with pytest.raises(
        decode.VideoError, match=r"version 2, this stm reads 3: run `stm prepare`"
    ) as caught:
        read_images(shard_path(tmp_path / "old.parquet", 0))
    assert caught.value.reason == "not_a_shard"


def test_a_shard_of_nothing_or_of_two_kinds_is_refused(tmp_path: Path) -> None:
    for rows in ([], [("a", b"")], [("a", b"x"), ("b", [b"x"])], [("a", [])]):
        with pytest.raises(ValueError, match=r"s\.parquet"):
            write_shard(tmp_path / "s.parquet", rows)

"""The manifest: what is written is read, and what is no manifest is refused with a reason."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stm.data.manifest import METADATA_KEY, SCHEMA, Manifest
from stm.errors import UserError


def make_manifest(**columns: list[Any]) -> Manifest:
    """Three videos, the second unusable; any column may be given other values."""
    values: dict[str, list[Any]] = {
        "video_id": ["a", "b", "c"],
        "path": ["/v/a.mp4", "/v/b.mp4", "/v/c.mp4"],
        "label": [0, 1, 1],
        "num_frames": [10, 0, 30],
        "fps": [25.0, 0.0, 12.5],
        "width": [320, 0, 640],
        "height": [240, 0, 360],
        "codec": ["h264", "", "vp9"],
        "status": ["ok", "not_found", "ok"],
        "detail": ["", "no such file", ""],
        "group": ["g1", "", "g2"],
        "guard": ["", "", "no duration"],
        "keyframe_interval": [10, 0, 30],
    }
    table = pa.table({**values, **columns}, schema=SCHEMA)
    return Manifest(table, ("jump", "läuft"), "demo", flip=True)


def rewrite(path: Path, table: pa.Table, **described: Any) -> None:
    """Store a table under a manifest's metadata, some of it changed."""
    metadata = {
        "schema_version": 1,
        "dataset": "demo",
        "classes": ["jump", "läuft"],
        "flip": True,
        "flip_map": None,
    }
    raw = json.dumps({**metadata, **described}).encode()
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: raw}), path)


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = dataclasses.replace(make_manifest(), flip=False, flip_map={0: 1, 1: 0})
    written.write(tmp_path / "new" / "train.parquet")
    read = Manifest.read(tmp_path / "new" / "train.parquet")
    assert read.table.equals(written.table)
    assert read.table.schema.remove_metadata() == SCHEMA
    assert (read.classes, read.dataset) == (written.classes, "demo")
    assert (read.flip, read.flip_map) == (False, {0: 1, 1: 0})
    assert (len(read), read.num_classes) == (3, 2)
    assert read.fingerprint == written.fingerprint


def test_usable_are_the_rows_with_status_ok() -> None:
    usable = make_manifest().usable
    assert usable.tolist() == [0, 2]
    assert usable.dtype == np.int64


def test_the_fingerprint_survives_a_move_and_another_row_group_layout(tmp_path: Path) -> None:
    manifest = make_manifest()
    moved = make_manifest(path=["/w/a.mp4", "/w/b.mp4", "s3://bucket/c.mp4"])
    assert moved.fingerprint == manifest.fingerprint
    manifest.write(tmp_path / "a.parquet")
    table = pq.ParquetFile(tmp_path / "a.parquet").read()
    pq.write_table(table, tmp_path / "b.parquet", row_group_size=1)
    assert Manifest.read(tmp_path / "b.parquet").fingerprint == manifest.fingerprint
    chunked = pa.concat_tables([manifest.table.slice(0, 2), manifest.table.slice(2)])
    assert dataclasses.replace(manifest, table=chunked).fingerprint == manifest.fingerprint


@pytest.mark.parametrize(
    "changed",
    [
        {"label": [0, 1, 0]},
        {"num_frames": [11, 0, 30]},
        {"video_id": ["a", "b", "d"]},
        {"status": ["ok", "ok", "ok"], "num_frames": [10, 0, 30]},
        {"video_id": ["c", "b", "a"]},
    ],
)
def test_the_fingerprint_tells_other_content(changed: dict[str, list[Any]]) -> None:
    assert make_manifest(**changed).fingerprint != make_manifest().fingerprint


def test_the_fingerprint_tells_other_classes() -> None:
    manifest = make_manifest()
    renamed = dataclasses.replace(manifest, classes=("jump", "run"))
    assert renamed.fingerprint != manifest.fingerprint


def test_a_mirrored_clip_keeps_changes_or_has_no_label() -> None:
    keeps = make_manifest()
    assert [keeps.mirrored_label(label) for label in (0, 1)] == [0, 1]
    never = dataclasses.replace(keeps, flip=False)
    assert [never.mirrored_label(label) for label in (0, 1)] == [None, None]
    swaps = dataclasses.replace(keeps, flip=False, flip_map={0: 1})
    assert [swaps.mirrored_label(label) for label in (0, 1)] == [1, None]


def test_a_failed_write_leaves_the_old_manifest_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "train.parquet"
    make_manifest().write(path)
    old = path.read_bytes()

    def full_disk(table: pa.Table, path: Path, **options: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full_disk)
    with pytest.raises(UserError, match="No space left"):
        make_manifest(label=[1, 1, 1]).write(path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("path,label\n")
    with pytest.raises(UserError, match=r"train\.csv: not a Parquet file.*stm index"):
        Manifest.read(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.parquet: cannot read.*stm index"):
        Manifest.read(tmp_path / "none.parquet")
    with pytest.raises(UserError, match=r"It is a folder"):
        Manifest.read(tmp_path)


def test_a_manifest_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    make_manifest().write(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="cut short"):
        Manifest.read(path)


def test_a_parquet_file_of_someone_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(UserError, match="no manifest"):
        Manifest.read(path)


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    rewrite(tmp_path / "m.parquet", make_manifest().table, schema_version=3)
    with pytest.raises(UserError, match="schema_version is 3, this stm reads 1 and 2"):
        Manifest.read(tmp_path / "m.parquet")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"video_id": ["a", "b", "a"]}, r"video_id 'a' occurs more than once"),
        ({"label": [0, 1, 2]}, r"label 2 of video 'c' lies outside the 2 classes"),
        ({"label": [-1, 1, 1]}, r"label -1 of video 'a' lies outside the 2 classes"),
        ({"status": ["empty", "empty", "deadline"]}, r"no usable video among 3 \(empty: 2"),
        ({"num_frames": [10, 0, 0]}, r"'c' has status ok and num_frames 0"),
        ({"group": ["a", None, "b"]}, r"column group has 1 null"),
    ],
)
def test_rows_that_cannot_be_are_refused(
    tmp_path: Path, columns: dict[str, list[Any]], message: str
) -> None:
    rewrite(tmp_path / "m.parquet", make_manifest(**columns).table)
    with pytest.raises(UserError, match=message) as refused:
        Manifest.read(tmp_path / "m.parquet")
    assert str(tmp_path / "m.parquet") in str(refused.value)


def test_missing_columns_wrong_types_and_no_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    table = make_manifest().table
    rewrite(path, table.drop_columns(["guard", "fps"]))
    with pytest.raises(UserError, match=r"no column fps, guard"):
        Manifest.read(path)
    rewrite(path, table.set_column(2, "label", pa.array(["x", "y", "z"])))
    with pytest.raises(UserError, match="another type"):
        Manifest.read(path)
    rewrite(path, table.slice(0, 0))
    with pytest.raises(UserError, match="empty"):
        Manifest.read(path)


def test_a_flip_map_that_leaves_the_classes_is_refused(tmp_path: Path) -> None:
    rewrite(tmp_path / "m.parquet", make_manifest().table, flip=False, flip_map={"0": 5})
    with pytest.raises(UserError, match="flip_map maps label 0 to 5"):
        Manifest.read(tmp_path / "m.parquet")


@given(
    st.lists(st.text("abc\u00e9", max_size=3), max_size=40),
    st.lists(st.integers(0, 40), max_size=3),
)
def test_distinct_names_are_counted_as_a_set_counts_them(names, cuts):
    from stm.data.manifest import _num_distinct

    whole = pa.array(names, pa.string())
    ends = [0, *sorted(min(cut, len(names)) for cut in cuts), len(names)]
    chunks = [whole.slice(a, b - a) for a, b in itertools.pairwise(ends)]
    assert _num_distinct(pa.chunked_array(chunks, pa.string())) == len(set(names))


@given(
    st.lists(
        st.sampled_from(
            ["a/b.mp4", "/abs/x.mp4", "s3://b/k.mp4", "../up.mp4", "a/../b.mp4", "", "a"]
        ),
        max_size=9,
    ),
    st.sampled_from(["/data/set", "/data/set/", "s3://bucket/set"]),
)
def test_a_column_of_paths_is_joined_as_each_of_them_is(paths, root):
    from stm.data.roots import all_joined, are_relative, is_relative, joined

    column = pa.chunked_array([paths[:3], paths[3:]], pa.string())
    assert all_joined(root, column).to_pylist() == [joined(root, path) for path in paths]
    assert are_relative(column).to_pylist() == [is_relative(path) for path in paths]

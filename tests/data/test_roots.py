"""The root of a manifest: paths stay apart from it, and the data set may move."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stm.data.manifest import METADATA_KEY, Manifest
from stm.data.roots import absolute_root, joined, relative_to, root_to_use
from stm.errors import UserError
from tests.data.test_manifest import make_manifest, rewrite
from tests.logged import logged


def paths_of(manifest: Manifest) -> list[str]:
    return list(manifest.table["path"].to_pylist())


@pytest.mark.parametrize(
    ("path", "root", "stored"),
    [
        ("/data/a/v.avi", "/data", "a/v.avi"),
        ("/data/a/v.avi", "/", "data/a/v.avi"),
        ("/data-2/v.avi", "/data", "/data-2/v.avi"),
        ("/data", "/data", "/data"),
        ("/data/s.parquet#17", "/data", "s.parquet#17"),
        ("s3://bucket/data/a b.avi", "s3://bucket/data", "a b.avi"),
        ("s3://bucket/data//v.avi", "s3://bucket/data", "s3://bucket/data//v.avi"),
        ("s3://other/data/v.avi", "s3://bucket/data", "s3://other/data/v.avi"),
        ("https://h/p/https://i/v.avi", "https://h/p", "https://h/p/https://i/v.avi"),
        ("/data/v.avi", None, "/data/v.avi"),
    ],
)
def test_a_path_below_the_root_is_stored_without_it_and_comes_back(path, root, stored) -> None:
    assert relative_to(path, root) == stored
    assert joined(root, stored) == path


def test_a_root_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_root("videos/") == str(tmp_path / "videos")
    assert absolute_root("s3://bucket/a/") == "s3://bucket/a"


def test_a_manifest_moves_with_its_videos_and_keeps_its_fingerprint(tmp_path: Path) -> None:
    paths = ["/v/a.mp4", "/elsewhere/b.mp4", "/v/s.parquet#3"]
    written = replace(make_manifest(path=paths), root="/v")
    written.write(tmp_path / "m.parquet")
    stored = pq.read_table(tmp_path / "m.parquet")
    assert stored["path"].to_pylist() == ["a.mp4", "/elsewhere/b.mp4", "s.parquet#3"]
    assert json.loads(stored.schema.metadata[METADATA_KEY])["root"] == "/v"

    read = Manifest.read(tmp_path / "m.parquet")
    assert (paths_of(read), read.root) == (paths, "/v")
    assert read.fingerprint == written.fingerprint == make_manifest(path=paths).fingerprint

    inside = replace(make_manifest(path=["/v/a.mp4", "/v/b.mp4", "/v/s.parquet#3"]), root="/v/")
    inside.write(tmp_path / "m.parquet")
    for root in ("/new", "s3://bucket/new"):
        moved = Manifest.read(tmp_path / "m.parquet", root)
        assert paths_of(moved) == [f"{root}/a.mp4", f"{root}/b.mp4", f"{root}/s.parquet#3"]
        assert (moved.root, moved.fingerprint) == (root, inside.fingerprint)
        moved.write(tmp_path / "moved.parquet")
        assert paths_of(Manifest.read(tmp_path / "moved.parquet")) == paths_of(moved)


def test_what_does_not_lie_below_the_recorded_root_does_not_move_and_is_refused(
    tmp_path: Path,
) -> None:
    paths = ["/v/a.mp4", "/elsewhere/b.mp4", "/v/c.mp4"]
    replace(make_manifest(path=paths), root="/v").write(tmp_path / "m.parquet")
    with pytest.raises(UserError, match=r"1 path outside --data.root /new: /elsewhere"):
        Manifest.read(tmp_path / "m.parquet", "/new")


def test_a_relative_path_that_leaves_the_root_is_refused(tmp_path: Path) -> None:
    table = make_manifest(path=["a/../../x.mp4", "b.mp4", "c.mp4"]).table
    rewrite(tmp_path / "m.parquet", table, schema_version=2, root="/v")
    with pytest.raises(UserError, match=r"1 path outside --data.root /v: /x.mp4"):
        Manifest.read(tmp_path / "m.parquet", "/v")


@pytest.mark.parametrize("root", ["relative", 7, None])
def test_a_root_that_leaves_paths_relative_is_refused(tmp_path: Path, root: object) -> None:
    table = make_manifest(path=["a.mp4", "b.mp4", "c.mp4"]).table
    rewrite(tmp_path / "m.parquet", table, schema_version=2, root=root)
    with pytest.raises(UserError, match=r"root.*Run `stm index` again"):
        Manifest.read(tmp_path / "m.parquet")


def test_version_1_is_read_as_ever(tmp_path: Path) -> None:
    rewrite(tmp_path / "m.parquet", make_manifest().table)
    read = Manifest.read(tmp_path / "m.parquet")
    assert (paths_of(read), read.root) == (paths_of(make_manifest()), None)
    assert read.fingerprint == make_manifest().fingerprint
    assert paths_of(Manifest.read(tmp_path / "m.parquet", "/v")) == paths_of(make_manifest())
    with pytest.raises(UserError, match=r"outside --data\.root"):
        Manifest.read(tmp_path / "m.parquet", "/new")


def test_a_wider_or_narrower_root_guards_where_the_videos_still_are(tmp_path: Path) -> None:
    old = tmp_path / "data" / "set"
    (old / "videos").mkdir(parents=True)
    (old / "videos" / "a.mp4").touch()
    stored = ["videos/a.mp4", "videos/gone.mp4"]
    for guard in (old, old.parent, old / "videos"):
        assert root_to_use(stored, str(old), str(guard)) == str(old)
    (old / "videos").rename(tmp_path / "data" / "videos")  # one level up
    assert root_to_use(stored, str(old), str(old.parent)) == str(old.parent)
    assert root_to_use(stored, str(old), "/new/") == "/new"
    assert root_to_use(stored, "s3://b/a/set", "s3://b/a") == "s3://b/a/set"
    assert root_to_use(stored, "s3://b/a/set", "s3://b/b") == "s3://b/b"


@pytest.mark.parametrize("videos", ["", "videos"])
@pytest.mark.parametrize("manifest", ["", "manifests"])
def test_a_data_set_moved_together_with_its_manifest_is_found_and_said(
    tmp_path: Path, videos: str, manifest: str
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for name in "abc":
        (old / videos / "x").mkdir(parents=True, exist_ok=True)
        (old / videos / "x" / f"{name}.mp4").touch()
    paths = [str(old / videos / "x" / f"{name}.mp4") for name in "abc"]
    file = old / manifest / "m.parquet"
    replace(make_manifest(path=paths), root=str(old / videos)).write(file)
    with logged() as said:
        Manifest.read(file)
        assert said == []
        old.rename(new)
        read = Manifest.read(new / manifest / "m.parquet")
    assert paths_of(read) == [path.replace(str(old), str(new)) for path in paths]
    assert f"they are in {read.root}" in said[0]
    (new / videos / "x" / "b.mp4").unlink()  # not certain any more
    with logged() as said:
        assert paths_of(Manifest.read(new / manifest / "m.parquet")) == paths
    assert "--data.root" in said[0]

"""Indexing: every video has its row, in order, whatever the files do to the decoder."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stm.data.annotations import Annotations, Entry, read_annotations
from stm.data.decode import DEFAULT_LIMITS, Limits, probe
from stm.data.index.cross_check import check_files, sample_files
from stm.data.index.indexing import Summary, _probe_block, index_videos
from stm.data.index.probe_store import PROBED, ProbeStore, remembered
from stm.data.manifest import Manifest
from stm.data.source_state import source_state
from stm.dataset import _decord
from tests.data.probes import probe_and_log, probe_or_misbehave
from tests.videos import cut_by_copying_packets, write_frame_folder, write_video


def listing(*splits: list[Path]) -> Annotations:
    """Annotations of one class with the files of each split, train first."""
    return Annotations(
        ("only",),
        {
            name: [Entry(path.name, str(path), 0, "", f"list:{k}") for k, path in enumerate(paths)]
            for name, paths in zip(("train", "val"), splits, strict=False)
        },
        "made",
    )


def statuses(manifest: Manifest) -> dict[str, str]:
    table = manifest.table
    return dict(zip(table["video_id"].to_pylist(), table["status"].to_pylist(), strict=True))


@pytest.mark.ray
def test_every_file_has_its_row_and_reason_whatever_it_does(
    ray_cluster: None, tmp_path: Path
) -> None:
    good = tmp_path / "good0.mp4"
    write_video(good, num_frames=24, width=160, height=96, options={"g": "12"})
    files = [good]
    for k in range(1, 20):
        files.append(shutil.copy(good, tmp_path / f"good{k}.mp4"))
    bad = {
        "text.mp4": "not_a_video",
        "nothing.mp4": "empty",
        "missing.mp4": "not_found",
        "hang.mp4": "deadline",
        "exit.mp4": "crashed",
        "segfault.mp4": "crashed",
        "strange.mp4": "probe_failed",
    }
    for name in bad:
        if name != "missing.mp4":
            shutil.copy(good, tmp_path / name)
    (tmp_path / "text.mp4").write_text("not a film at all\n" * 50)
    (tmp_path / "nothing.mp4").write_bytes(b"")
    frames = write_frame_folder(tmp_path / "frames", num_frames=7)
    for place, name in zip((0, 3, 4, 9, 10, 15, 22), bad, strict=True):
        files.insert(place, tmp_path / name)
    files.append(frames)
    train, val = files[:20], files[20:]

    done: list[tuple[int, int]] = []
    manifests, summary = index_videos(
        listing(train, val),
        deadline_s=5,
        probe=probe_or_misbehave,
        progress=lambda *counts: done.append(counts),
    )

    for manifest, paths in ((manifests["train"], train), (manifests["val"], val)):
        assert manifest.table["video_id"].to_pylist() == [path.name for path in paths]
        assert manifest.table["path"].to_pylist() == [str(path) for path in paths]
        expected = {path.name: bad.get(path.name, "ok") for path in paths}
        assert statuses(manifest) == expected
    rows = {row["video_id"]: row for name in manifests for row in manifests[name].table.to_pylist()}
    assert rows["good5.mp4"] == {
        "video_id": "good5.mp4",
        "path": str(tmp_path / "good5.mp4"),
        "label": 0,
        "num_frames": 24,
        "fps": 25.0,
        "width": 160,
        "height": 96,
        "codec": "h264",
        "status": "ok",
        "detail": "",
        "group": "",
        "guard": "",
        "keyframe_interval": 12,
    }
    assert rows["frames"]["num_frames"] == 7
    assert "within 5 s" in rows["hang.mp4"]["detail"]
    assert "exit status 3" in rows["exit.mp4"]["detail"]
    assert "SIGSEGV" in rows["segfault.mp4"]["detail"]
    assert rows["strange.mp4"]["detail"] == "LookupError: what no decoder should raise"
    assert all(rows[name]["num_frames"] == 0 for name in bad)
    assert done[-1] == (28, 28)
    assert summary.num_videos == summary.num_probed == 28
    assert summary.status["ok"] == 21
    assert summary.size["160x96"] >= 20
    assert summary.num_frames["50%"] == 24


def wait_until_settled(log: Path) -> None:
    """Return when the file has not grown for two seconds."""
    size, since = -1, time.monotonic()
    while time.monotonic() - since < 2:
        if log.stat().st_size != size:
            size, since = log.stat().st_size, time.monotonic()
        time.sleep(0.1)


@pytest.mark.ray
def test_an_interrupted_index_goes_on_and_a_changed_file_is_probed_again(
    ray_cluster: None, tmp_path: Path
) -> None:
    files = [tmp_path / f"{k:02d}.mp4" for k in range(64)]
    for k, path in enumerate(files):
        path.write_bytes(b"x" * (k + 1))
    log, work = tmp_path / "probed.log", tmp_path / "work"

    def interrupt(num_done: int, num_videos: int) -> None:
        raise KeyboardInterrupt

    def index(annotations: Annotations):  # type: ignore[no-untyped-def]
        return index_videos(annotations, work_dir=work, probe=probe_and_log, cross_check=0)

    with pytest.raises(KeyboardInterrupt):
        index_videos(listing(files), work_dir=work, probe=probe_and_log, progress=interrupt)
    stored = ProbeStore(work).load()["path"].to_pylist()
    assert 0 < len(stored) < 64
    wait_until_settled(log)  # tasks that were at work go on for a moment
    log.unlink()

    manifests, summary = index(listing(files[:40], files[40:]))
    probed = log.read_text().split()
    assert summary.num_probed == len(probed) == 64 - len(stored)
    assert not {os.path.basename(path) for path in stored} & set(probed)
    lengths = [n for name in manifests for n in manifests[name].table["num_frames"].to_pylist()]
    assert lengths == list(range(1, 65))

    files[7].write_bytes(b"x" * 700)
    log.unlink()
    manifests, summary = index(listing(files[::-1]))
    assert log.read_text().split() == ["07.mp4"]
    assert summary.num_probed == 1
    lengths = manifests["train"].table["num_frames"].to_pylist()
    assert lengths == [700 if n == 8 else n for n in range(64, 0, -1)]


def test_a_known_file_that_cannot_be_looked_at_spoils_none_of_its_block(tmp_path: Path) -> None:
    video = tmp_path / "good.mp4"
    video.write_bytes(b"x" * 5)
    state, _ = source_state(str(video))
    rows = {
        "row": [0, 1],
        "path": [str(video), "no-such-scheme://a/b.mp4"],
        "known": [state, "1:2"],
    }
    found = _probe_block(pa.table(rows), probe=probe_and_log, deadline_s=60.0)
    assert found["unchanged"].to_pylist() == [True, False]
    assert found["status"].to_pylist()[1] not in ("", "ok")


@pytest.mark.ray
def test_good_clips_are_all_usable_and_decoders_agree(
    ray_cluster: None, made_or_real: Path | None, tmp_path: Path
) -> None:
    if made_or_real is None:
        root = tmp_path / "videos"
        for k in range(6):
            for split in ("train", "val"):
                path = root / split / "ab"[k % 2] / f"{k}.{('mp4', 'avi')[k % 2]}"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_video(path, num_frames=8, codec=("libx264", "mpeg4")[k % 2], seed=k)
        annotations = read_annotations("folder", root)
        expected = ({"train": 6, "val": 6}, {"h264": 6, "mpeg4": 6})
    else:
        annotations = read_annotations("ucf101", made_or_real / "mini5")
        expected = ({"train": 60, "val": 30}, {"mpeg4": 54, "h264": 36})
    manifests, summary = index_videos(annotations, cross_check=6)
    assert {name: len(m.usable) for name, m in manifests.items()} == expected[0]
    assert summary.codec == expected[1]
    assert summary.num_cross_checked == 6
    assert summary.disagreements == {}
    manifests["val"].write(tmp_path / "val.parquet")
    assert Manifest.read(tmp_path / "val.parquet").fingerprint == manifests["val"].fingerprint


def stored_row(path: str, **values: object) -> dict[str, object]:
    return {
        "path": path,
        "state": "1:1",
        "deadline_s": 30.0,
        "status": "ok",
        "detail": "",
        "num_frames": 9,
        "fps": 25.0,
        "width": 8,
        "height": 6,
        "codec": "h264",
        "guard": "",
        "keyframe_interval": 9,
        **values,
    }


def stored(*rows: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=PROBED)


def test_what_may_mend_by_itself_is_probed_again() -> None:
    table = stored(
        stored_row("ok"),
        stored_row("damaged", status="not_a_video"),
        stored_row("no state", state=""),
        stored_row("forbidden", status="permission_denied"),
        stored_row("slow", status="deadline"),
        stored_row("crashed", status="crashed"),
    )
    assert set(remembered(table, 30)) == {"ok", "damaged", "slow", "crashed"}
    assert set(remembered(table, 31)) == {"ok", "damaged", "crashed"}


def test_what_is_beyond_other_limits_now_is_probed_again() -> None:
    table = stored(
        stored_row("small", width=160, height=96),
        stored_row("large", width=1600, height=960),
        stored_row("refused", status="too_large", width=0, height=0),
    )
    assert set(remembered(table, 30)) == {"small", "large"}
    assert set(remembered(table, 30, max_pixels=160 * 96)) == {"small"}


@pytest.mark.ray
def test_larger_videos_than_allowed_are_refused_and_the_limit_is_named(
    ray_cluster: None, tmp_path: Path
) -> None:
    small = write_video(tmp_path / "small.mp4", num_frames=6)
    large = write_video(tmp_path / "large.mp4", num_frames=6, width=320, height=192)
    bomb = tmp_path / "bomb.gif"
    side = (16000).to_bytes(2, "little")
    bomb.write_bytes(
        b"GIF89a%b%b\xf0\0\0\0\0\0\xff\xff\xff,\0\0\0\0%b%b\0\2\2\x84\x51\0;" % ((side,) * 4)
    )
    work = tmp_path / "probes"
    for max_pixels, expected in (
        (
            DEFAULT_LIMITS.max_pixels,
            {"small.mp4": "ok", "large.mp4": "ok", "bomb.gif": "too_large"},
        ),
        (20_000, {"small.mp4": "ok", "large.mp4": "too_large", "bomb.gif": "too_large"}),
        (320 * 192, {"small.mp4": "ok", "large.mp4": "ok", "bomb.gif": "too_large"}),
    ):
        manifests, _ = index_videos(
            listing([small, large, bomb]),
            work_dir=work,
            cross_check=0,
            limits=Limits(max_pixels=max_pixels),
        )
        assert statuses(manifests["train"]) == expected
        refused = manifests["train"].table["detail"][2].as_py()
        assert "max_pixels" in refused
        assert "16000x16000" in refused
    # Beyond the pixels, the memory.
    manifests, _ = index_videos(
        listing([small, bomb]),
        cross_check=0,
        limits=Limits(max_pixels=2**28, memory_bytes=400 * 2**20),
    )
    assert statuses(manifests["train"]) == {"small.mp4": "ok", "bomb.gif": "too_large"}
    assert "decode_mib" in manifests["train"].table["detail"][1].as_py()


def test_the_latest_result_of_a_path_counts() -> None:
    assert remembered(stored(stored_row("a"), stored_row("a")), 30) == {"a": 1}


def test_the_store_passes_over_damage_and_other_versions(tmp_path: Path) -> None:
    store = ProbeStore(tmp_path)
    store.add(stored(stored_row("a")))
    store.add(stored(stored_row("b")))
    assert sorted(store.load()["path"].to_pylist()) == ["a", "b"]
    (tmp_path / "block-cut.parquet").write_bytes(b"PAR1 and then nothing")
    other = stored(stored_row("c")).replace_schema_metadata({b"stm.probes": b"av 1"})
    pq.write_table(other, tmp_path / "block-old.parquet")
    assert sorted(store.load()["path"].to_pylist()) == ["a", "b"]
    store.compact(stored(stored_row("d")))
    assert len(list(tmp_path.iterdir())) == 1
    assert store.load()["path"].to_pylist() == ["d"]


def test_cross_checked_files_are_of_every_codec_and_trusted() -> None:
    rows = [stored_row(f"h{k}") for k in range(20)]
    rows += [stored_row("vp9", codec="vp9"), stored_row("frames", codec="jpeg-folder")]
    rows += [stored_row("guarded", guard="no duration"), stored_row("bad", status="empty")]
    rows += [stored_row("s3://b/url", codec="hevc")]
    chosen = [path for path, _ in sample_files(stored(*rows), 4)]
    assert len(chosen) == 4
    assert "vp9" in chosen
    assert all(path[0] == "h" for path in chosen if path != "vp9")
    assert sample_files(stored(*rows), 0) == []


def test_decoders_that_disagree_are_told_apart(tmp_path: Path) -> None:
    pytest.importorskip("decord", reason="decord has no wheel for this machine")
    path = tmp_path / "whole.mp4"
    write_video(path, num_frames=60, options={"g": "12", "bf": "2"})
    # Edit lists: decord counts the discarded packets; the guard says so, and so does a trial.
    cut = cut_by_copying_packets(path, tmp_path / "cut.mp4", 17)
    info = probe(str(cut))
    assert info.guard
    # At a width of 72 decord fails within its own copying.
    narrow = [tmp_path / "narrow1.mp4", tmp_path / "narrow2.mp4"]
    for each in narrow:
        write_video(each, num_frames=8, width=72, height=72)
    files = [(str(path), 60), (str(cut), info.num_frames), *((str(each), 8) for each in narrow)]
    said = check_files(files, deadline_s=20)
    assert list(said) == [str(each) for each in (cut, *narrow)]
    assert said[str(cut)].startswith("decoders disagree: ")
    assert said[str(narrow[0])].startswith("decoders disagree: decord refuses the file (Check")

    summary = Summary(
        num_videos=4, num_probed=4, status={"ok": 4}, codec={"h264": 4}, size={}, guard={"": 1}, num_frames={},
        num_cross_checked=4, disagreements=said, seconds=1.0,
    )  # fmt: skip
    told = _decord(summary).splitlines()
    assert "of 4 that were compared, 3 differ" in told[0]
    assert "keep --data.decoder packets" in told[0]
    assert told[1].startswith(f"  2 videos, such as {narrow[0]}: decoders disagree: decord refuses")
    assert told[2].startswith(f"  1 video, such as {cut}: decoders disagree: ")
    assert len(told) == 3
    assert (
        _decord(replace(summary, num_cross_checked=0, disagreements={})) == "can read 1 of 1 video"
    )

"""`stm prepare`: every video has its row, whatever happens to it, and nothing is made twice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines import cli
from pipelines.prepare import _faster
from stm.data import decode, shards
from stm.data.manifest import SCHEMA, Manifest
from stm.data.prepare.log import PrepareLog, Record
from stm.data.prepare.preparing import FAILED, prepare_videos
from stm.data.prepare.task import SOURCE_COLUMNS, Job, key_of
from stm.data.prepare.transcode import Settings
from stm.data.shards import is_shard_path, read_video
from stm.data.stream.clips import ClipSpec
from stm.data.stream.graph import StreamSpec, build_stream, iterate, put_videos
from stm.data.stream.transforms import centre_box
from stm.errors import UserError
from tests.data.makers import make_and_note, make_or_misbehave
from tests.videos import frame_numbers, write_frame_folder, write_video


def manifest_of(*paths: Path, **unusable: str) -> Manifest:
    """A manifest of these videos, each of its own class, and of ids with a status that is not ok."""
    rows = []
    for path in paths:
        info = decode.probe(str(path))
        facts = {name: getattr(info, name) for name in ("num_frames", "fps", "width", "height")}
        facts |= {name: getattr(info, name) for name in ("codec", "guard", "keyframe_interval")}
        rows.append(
            {"video_id": path.name, "path": str(path), "status": "ok", "detail": "", **facts}
        )
    for name, status in unusable.items():
        facts = {"num_frames": 0, "fps": 0, "width": 0, "height": 0, "codec": "", "guard": ""}
        row = {"video_id": name, "path": f"/no/{name}", "status": status, "detail": "for the test"}
        rows.insert(1, {**row, **facts, "keyframe_interval": 0})
    for label, row in enumerate(rows):
        row.update(label=label, group=f"group {label}")
    classes = tuple(f"class {label}" for label in range(len(rows)))
    return Manifest(pa.Table.from_pylist(rows, schema=SCHEMA), classes, "made", True)


def main(words: list[str]) -> int:
    return cli.main(["prepare", *words])


def rows_of(manifest: Manifest) -> dict[str, dict[str, object]]:
    return {row["video_id"]: row for row in manifest.table.to_pylist()}


KEPT = ("video_id", "label", "num_frames", "fps", "group", "status", "detail")


@pytest.mark.ray
def test_every_video_has_its_row_whatever_happens_to_it(ray_cluster: None, tmp_path: Path) -> None:
    good = write_video(tmp_path / "good é?.mp4", num_frames=20, width=320, height=180)
    vfr = write_video(tmp_path / "vfr.mp4", times_ms=[0, 40, 300, 310, 900], num_frames=5)
    frames = write_frame_folder(tmp_path / "frames", num_frames=7)
    bad = {name: tmp_path / f"{name}.mp4" for name in ("gone", "spoilt", "hang", "die", "strange")}
    for path in bad.values():
        shutil.copy(vfr, path)
    before = manifest_of(good, vfr, *bad.values(), frames, lost="not_found")
    bad["gone"].unlink()
    bad["spoilt"].write_text("no video any more")
    output = tmp_path / "out"

    def prepare(**options: object):  # type: ignore[no-untyped-def]
        return prepare_videos(
            before,
            output,
            settings=Settings(short_side=96),
            deadline_s=8,
            deadline_s_per_frame=0.1,
            make=make_or_misbehave,
            **options,  # type: ignore[arg-type]
        )

    done: list[tuple[int, int]] = []
    after, summary = prepare(progress=lambda *counts: done.append(counts))
    assert done == [(k, 8) for k in range(1, 9)]
    assert (summary.num_videos, summary.num_made, summary.num_prepared) == (8, 8, 3)
    reasons = {
        "gone": "not_found",
        "spoilt": "not_a_video",
        "hang": "deadline",
        "die": "crashed",
        "strange": "failed",
    }
    assert {f.video_id: f.reason for f in summary.failures} == {
        f"{name}.mp4": reason for name, reason in reasons.items()
    }
    old, new = rows_of(before), rows_of(after)
    assert list(new) == list(old)
    assert new["lost"] == old["lost"]
    for name, reason in reasons.items():
        row = new[f"{name}.mp4"]
        assert row["status"] == FAILED
        assert str(row["detail"]).startswith(f"{reason}: ")
        assert (row["num_frames"], row["path"]) == (0, str(bad[name]))
    assert "within 8.5 s" in str(new["hang.mp4"]["detail"])
    for path in (good, vfr, frames):
        row = new[path.name]
        assert {name: row[name] for name in KEPT} == {name: old[path.name][name] for name in KEPT}
        assert (row["codec"], row["guard"], row["keyframe_interval"] <= 16) == ("h264", "", True)
        assert str(row["path"]).startswith(f"{output}/videos/")
        pictures = decode.read_frames(row["path"], range(row["num_frames"]))
        assert pictures.shape[1:3] == (row["height"], row["width"])
        assert frame_numbers(pictures) == list(range(row["num_frames"]))
    assert (new[good.name]["width"], new[good.name]["height"]) == (170, 96)
    assert after.fingerprint != before.fingerprint
    assert not list(output.rglob("tmp-*"))

    # Again: what failed for good is not tried again, and a source may stay where it is.
    kept, summary = prepare(keep_source_on_failure=True)
    assert summary.num_made == 3  # a missing file, a crash and a strange error may mend
    assert len(summary.failures) == 5
    assert kept.fingerprint == before.fingerprint
    for name in reasons:
        assert rows_of(kept)[f"{name}.mp4"] == old[f"{name}.mp4"]


@pytest.mark.ray
def test_what_is_finished_and_unchanged_is_not_made_again(
    ray_cluster: None, tmp_path: Path
) -> None:
    first = write_video(tmp_path / "00.mp4", num_frames=3)
    files = [first, *(Path(shutil.copy(first, tmp_path / f"{k:02d}.mp4")) for k in range(1, 24))]
    manifest, output, log = manifest_of(*files), tmp_path / "out", tmp_path / "made.log"

    def prepare(**options: object):  # type: ignore[no-untyped-def]
        log.unlink(missing_ok=True)
        after, summary = prepare_videos(manifest, output, make=make_and_note, **options)  # type: ignore[arg-type]
        made = log.read_text().split() if log.exists() else []
        assert len(made) == summary.num_made
        assert after.fingerprint == manifest.fingerprint
        return sorted(made), after

    def interrupt(num_done: int, num_videos: int) -> None:
        if num_done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(progress=interrupt)
    while True:  # tasks that were at work may finish what they began
        finished = PrepareLog(output / ".prepare/records").load()
        time.sleep(1.5)
        if len(PrepareLog(output / ".prepare/records").load()) == len(finished):
            break
    done = {Path(record.source).name for record in finished.values() if record.result}
    assert 5 <= len(done) < 24

    made, _ = prepare()
    assert made == sorted({path.name for path in files} - done)
    assert prepare()[0] == []

    os.utime(files[7], ns=(1, 1))
    made, changed = prepare()
    assert made == ["07.mp4"]
    missing = Path(rows_of(changed)["11.mp4"]["path"])
    missing.unlink()
    assert prepare()[0] == ["11.mp4"]
    assert missing.exists()
    assert len(prepare(settings=Settings(short_side=64))[0]) == 24
    assert prepare()[0] == []


@pytest.mark.ray
def test_shards_and_files_hold_the_same_and_a_change_goes_to_a_new_shard(
    ray_cluster: None, tmp_path: Path
) -> None:
    sources = [write_video(tmp_path / f"{k}.mp4", num_frames=8 + k, seed=k) for k in range(6)]
    manifest, output = manifest_of(*sources, lost="not_found"), tmp_path / "out"
    # Copies, because x264 does not always make the same bytes of the same frames.
    files, _ = prepare_videos(manifest, output, make=make_and_note)
    most = 2 * sources[-1].stat().st_size

    def pack() -> tuple[list[dict[str, object]], int]:
        shards, summary = prepare_videos(
            manifest, output, layout="shards", make=make_and_note, shard_bytes=most
        )
        return shards.table.to_pylist(), summary.num_made

    shards, num_made = pack()
    assert num_made == 6
    places = [str(row["path"]) for row in shards if row["status"] == "ok"]
    assert all(is_shard_path(path) for path in places)
    sizes = Counter(path.split("#")[0] for path in places)
    assert len(sizes) == 3
    assert not [path for path in (output / ".prepare/staged").rglob("*") if path.is_file()]
    for one, other in zip(files.table.to_pylist(), shards, strict=True):
        assert {**one, "path": ""} == {**other, "path": ""}
        if one["status"] == "ok":
            wanted = range(one["num_frames"])
            frames = decode.read_frames(other["path"], wanted)
            assert (frames == decode.read_frames(one["path"], wanted)).all()
            assert frame_numbers(frames) == list(wanted)

    old = [read_video(path) for path in places]
    write_video(sources[2], num_frames=10, seed=99)
    again, num_made = pack()
    assert num_made == 1
    moved = [str(row["path"]) for row in again if row["status"] == "ok"]
    assert [k for k in range(6) if moved[k] != places[k]] == [2]
    assert read_video(moved[2]) == sources[2].read_bytes()
    assert [read_video(path) for path in places] == old  # of the manifest that may be in use

    Path(places[5].split("#")[0]).unlink()
    again, num_made = pack()
    assert num_made == sizes[places[5].split("#")[0]]
    assert [read_video(str(row["path"])) for row in again if row["status"] == "ok"] == [
        path.read_bytes() for path in sources
    ]


@pytest.mark.ray
def test_training_reads_shards_of_videos_and_of_images(ray_cluster: None, tmp_path: Path) -> None:
    sources = [
        write_video(tmp_path / f"{k}.mp4", num_frames=9, width=200, height=120, seed=k)
        for k in range(3)
    ]
    frames = write_frame_folder(tmp_path / "frames", num_frames=9)
    manifest = manifest_of(*sources, frames, lost="not_found")
    packed, _ = prepare_videos(
        manifest,
        tmp_path / "out",
        layout="shards",
        settings=Settings(short_side=96, keep_jpeg=True),
    )
    assert packed.fingerprint == manifest.fingerprint
    row = rows_of(packed)["frames"]
    assert (row["codec"], is_shard_path(row["path"])) == ("jpeg-folder", True)
    wanted = range(9)
    pictures = decode.read_frames(row["path"], wanted)
    assert (pictures == decode.read_frames(str(frames), wanted)).all()

    packed.write(tmp_path / "packed.parquet")
    spec = StreamSpec(
        videos=put_videos(Manifest.read(tmp_path / "packed.parquet")),
        num_videos=4,
        global_batch=2,
        clip=ClipSpec(num_segments=9, size=96),
    )
    batches = list(iterate(build_stream(spec, 1), 1))
    assert [label for batch in batches for label in batch.labels] == [0, 2, 3, 4]
    assert all((batch.weights == 1).all() for batch in batches)
    assert not any(batch.failures for batch in batches)
    row = rows_of(packed)["1.mp4"]
    expected = decode.read_views(row["path"], wanted, [centre_box(160, 96)], 96)
    assert (batches[0].clips[1] == expected).all()


@pytest.mark.ray
def test_a_full_disk_ends_the_job_and_spoils_no_video(ray_cluster: None, tmp_path: Path) -> None:
    files = [write_video(tmp_path / f"{name}.mp4", num_frames=3) for name in ("a", "full", "b")]
    manifest, output = manifest_of(*files), tmp_path / "out"
    with pytest.raises(UserError, match=r"full\.mp4: no space left.*same command"):
        prepare_videos(manifest, output, make=make_or_misbehave)
    after, summary = prepare_videos(manifest, output)
    assert summary.failures == []
    assert after.fingerprint == manifest.fingerprint


def test_two_jobs_in_one_folder_are_refused(tmp_path: Path) -> None:
    manifest = manifest_of(write_video(tmp_path / "a.mp4", num_frames=2))
    (tmp_path / ".prepare").mkdir()
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys; lock = open(sys.argv[1], 'w'); fcntl.flock(lock, fcntl.LOCK_EX); "
            "print('held', flush=True); sys.stdin.read()",
            str(tmp_path / ".prepare/lock"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="another `stm prepare`"):
            prepare_videos(manifest, tmp_path)
    finally:
        holder.kill()
        holder.communicate()


def test_a_record_cut_short_is_passed_over_and_the_latest_counts(tmp_path: Path) -> None:
    early = Record(key="k", source="/a", reason="failed", written=1.0)
    late = Record(key="k", source="/a", result="videos/a.mp4", written=2.0)
    one, other = PrepareLog(tmp_path), PrepareLog(tmp_path)
    one.add(late)
    other.add(early)
    for path in tmp_path.iterdir():
        with open(path, "a") as file:
            file.write(late.to_json()[:30])
    assert PrepareLog(tmp_path).load() == {"k": late}
    one.compact([late])
    assert len(list(tmp_path.iterdir())) == 1
    assert PrepareLog(tmp_path).load() == {"k": late}


def test_a_failure_is_final_unless_it_may_mend() -> None:
    def is_final(reason: str, deadline_s: float = 30) -> bool:
        return Record(key="k", source="/a", reason=reason, deadline_s=30).is_final(deadline_s)

    assert is_final("not_a_video")
    assert not is_final("crashed")
    assert is_final("deadline")
    assert not is_final("deadline", 31)


def test_shards_of_an_older_version_are_made_again_and_files_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = dict.fromkeys((*SOURCE_COLUMNS, "source"), "a")

    def keys() -> list[str]:
        return [
            key_of(
                item,
                "state",
                Job(
                    output=tmp_path,
                    temporary=tmp_path,
                    layout=layout,
                    settings=Settings(),
                    deadline_s=1.0,
                    deadline_s_per_frame=1.0,
                    make=make_and_note,
                ),
            )
            for layout in ("files", "shards")
        ]

    before = keys()
    monkeypatch.setattr(shards, "VERSION", shards.VERSION + 1)
    assert [old == new for old, new in zip(before, keys(), strict=True)] == [True, False]


@pytest.mark.ray
def test_prepare_writes_a_manifest_and_compares_before_and_after(
    ray_cluster: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = [write_video(tmp_path / f"{k}.mp4", num_frames=12, seed=k) for k in range(3)]
    manifest = manifest_of(*files, lost="not_found")
    manifest.write(tmp_path / "train.parquet")
    files[1].write_text("no video any more")
    output = tmp_path / "out"
    command = ["--manifest", str(tmp_path / "train.parquet"), "--output", str(output)]
    command += ["--min-gain", "0"]  # what such small videos gain is chance
    assert main([*command, "--measure", "2", "--json"]) == 0
    printed = capfd.readouterr()
    result = json.loads(printed.out)
    assert result["manifest"] == str(output / "train.parquet")
    assert (result["num_videos"], result["bad"], result["prepared"]) == (4, 2, 2)
    assert (result["failures"], result["same_fingerprint"]) == ({"not_a_video": 1}, False)
    assert result["bytes"]["before"] == files[0].stat().st_size + files[2].stat().st_size
    assert result["ms_per_clip"]["videos"] == 2
    assert result["ms_per_clip"]["by_codec"]["h264"]["after"] > 0
    prepared = Manifest.read(output / "train.parquet")
    assert prepared.fingerprint == result["fingerprint"]
    assert [row["status"] for row in rows_of(prepared).values()] == [
        "ok",
        "not_found",
        FAILED,
        "ok",
    ]
    sizes = [Path(row["path"]).stat().st_size for row in rows_of(prepared).values() if row["codec"]]
    assert sum(sizes) == result["bytes"]["after"]
    lines = (output / "train.bad.txt").read_text().splitlines()
    assert [line.split("\t")[:2] for line in lines] == [["lost", "not_found"], ["1.mp4", FAILED]]
    assert "1.mp4: not_a_video" in printed.err
    assert "--keep_source_on_failure" in printed.err
    assert "ms per clip" in printed.err

    assert main([*command, "--measure", "0", "--keep-source-on-failure"]) == 0
    printed = capfd.readouterr()
    assert printed.out == f"{output / 'train.parquet'}: 3 videos, and 1 unusable\n"
    assert "2 of 3 videos prepared, 0 of them now" in printed.err
    assert Manifest.read(output / "train.parquet").fingerprint == manifest.fingerprint
    lines = (output / "train.bad.txt").read_text().splitlines()
    assert [line.split("\t")[1] for line in lines] == ["not_found", "source_kept"]


@pytest.mark.ray
def test_videos_that_would_not_gain_keep_their_rows_and_are_listed(
    ray_cluster: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = [write_video(tmp_path / f"{k}.mp4", num_frames=12, seed=k) for k in range(2)]
    frames = write_frame_folder(tmp_path / "frames", num_frames=9)
    manifest = manifest_of(*files, frames, lost="not_found")
    manifest.write(tmp_path / "train.parquet")
    output = tmp_path / "out"
    command = ["--manifest", str(tmp_path / "train.parquet"), "--output", str(output)]
    command += ["--measure", "0", "--layout", "shards", "--codec", "jpeg", "--json"]
    for num_made in (3, 0):
        assert main([*command, "--min-gain", "1e6"]) == 0
        printed = capfd.readouterr()
        result = json.loads(printed.out)
        assert (result["prepared"], result["left_alone"], result["failures"]) == (0, 3, {})
        assert (result["made_now"], result["bad"], result["same_fingerprint"]) == (
            num_made,
            1,
            True,
        )
        assert (
            "3 videos left unchanged, since the new ones would not decode at least" in printed.err
        )
        assert rows_of(Manifest.read(output / "train.parquet")) == rows_of(manifest)
        lines = (output / "train.kept.txt").read_text().splitlines()
        kept = [line.split("\t") for line in lines]
        assert [each[:2] for each in kept] == [[p.name, str(p)] for p in (*files, frames)]
        assert all("ms if prepared" in each[2] for each in kept)
        assert not list((output / ".prepare").rglob("*.parquet"))

    assert main([*command, "--min-gain", "0"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert (result["prepared"], result["left_alone"], result["same_fingerprint"]) == (3, 0, True)
    assert not (output / "train.kept.txt").exists()
    for row in rows_of(Manifest.read(output / "train.parquet")).values():
        if row["status"] == "ok":
            assert (row["codec"], is_shard_path(row["path"])) == ("jpeg-folder", True)
            pictures = decode.read_frames(row["path"], range(row["num_frames"]))
            assert frame_numbers(pictures) == list(range(row["num_frames"]))


def test_prepare_refuses_bad_input_before_it_starts_a_cluster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "train.parquet"
    manifest_of(write_video(tmp_path / "a.mp4", num_frames=2)).write(manifest)

    def refused(*arguments: str) -> str:
        command = ["--manifest", str(manifest), "--output", str(tmp_path / "out"), *arguments]
        assert main(command) == 2
        message = capsys.readouterr().err
        assert "Traceback" not in message
        assert not (tmp_path / "out").exists()
        return message

    assert "stm index" in refused("--manifest", str(tmp_path / "none.parquet"))
    assert "layout" in refused("--layout", "tar")
    assert "--layout shards" in refused("--keep-jpeg")
    assert "--layout shards" in refused("--codec", "jpeg")
    assert "codec" in refused("--codec", "vp9")
    assert "--gop 0" in refused("--gop", "0")
    assert "--min_gain -1" in refused("--min-gain", "-1")
    assert "--short_side 8" in refused("--short-side", "8")
    assert "--deadline_s 0" in refused("--deadline-s", "0")
    assert "--measure -1" in refused("--measure", "-1")
    assert "would replace" in refused("--output", str(tmp_path))
    (tmp_path / "file").touch()
    assert "cannot write there" in refused("--output", str(tmp_path / "file"))


def test_unknown_layouts_are_refused_in_code_too(tmp_path: Path) -> None:
    manifest = manifest_of(write_video(tmp_path / "a.mp4", num_frames=2))
    with pytest.raises(UserError, match="files, shards"):
        prepare_videos(manifest, tmp_path, layout="tar")
    with pytest.raises(UserError, match="layout shards"):
        prepare_videos(manifest, tmp_path, settings=Settings(keep_jpeg=True))
    with pytest.raises(UserError, match="layout shards"):
        prepare_videos(manifest, tmp_path, settings=Settings(codec="jpeg"))
    with pytest.raises(UserError, match="h264, jpeg"):
        prepare_videos(manifest, tmp_path, settings=Settings(codec="av1"))
    assert np.array_equal(manifest.usable, [0])


def test_videos_left_alone_are_told_of_in_words() -> None:
    assert [_faster(gain) for gain in (1.0, 1.5)] == ["any faster", "at least 1.5 times as fast"]

"""What a training stands on is taken away: its disk, its store, its videos, its memory and its open files."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from stm.checkpoint.store import CheckpointStore
from stm.config import TrackingConfig
from stm.storage import filesystem
from stm.train.folders import working_folder
from tests import stores
from tests.chaos import runs
from tests.chaos.runs import same_as_undisturbed
from tests.videos import write_video

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(3600)]


class Run:
    """`stm train` of the small run, and what it says."""

    def __init__(self, config, folder, before=(), **environment):
        self.config, self.log = config, folder / "log.txt"
        self.process = runs.start(config, self.log, before, **environment)

    @property
    def said(self):
        return self.log.read_text()

    def wait_for(self, ready, timeout_s=1200):
        """Until ``ready()``; returns its answer."""
        deadline = time.monotonic() + timeout_s
        while not (answer := ready()):
            assert self.process.poll() is None, self.said[-3000:]
            assert time.monotonic() < deadline, self.said[-3000:]
            time.sleep(0.1)
        return answer

    def wait_for_step(self, step):
        def reached():
            found = CheckpointStore(
                f"{self.config.train.storage}/{self.config.train.name}"
            ).latest()
            return found is not None and found[1].step >= step and found[1].step

        return self.wait_for(reached)

    def ended(self, timeout_s=1800):
        """(exit status, result or None); it told no traceback."""
        out, _ = self.process.communicate(timeout=timeout_s)
        assert "Traceback" not in self.said, self.said[-5000:]
        return self.process.returncode, json.loads(out) if self.process.returncode == 0 else None


@pytest.fixture
def start():
    """`Run`, whose processes end with the test."""
    begun = []

    def started(*given, **more):
        begun.append(Run(*given, **more))
        return begun[-1]

    yield started
    for run in begun:
        run.process.kill()
        run.process.wait()


class Disk:
    """A file system of 512 MiB in a file, that can be mounted and unmounted."""

    def __init__(self, file, folder):
        self._file, self.folder = file, folder
        folder.mkdir()
        with file.open("wb") as image:
            image.truncate(2**29)
        self._run("mkfs.ext4", "-q", "-F", str(file))

    def mount(self):
        self._run("mount", "-o", "loop", str(self._file), str(self.folder))

    def unmount(self):
        self._run("umount", "-l", str(self.folder))

    @staticmethod
    def _run(*command):
        subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path):
    try:
        disk = Disk(tmp_path / "disk.img", tmp_path / "disk")
        disk.mount()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this user may not mount a file system: {error}")
    yield disk
    if os.path.ismount(disk.folder):
        disk.unmount()


def test_a_disk_that_fills_up_under_a_run_loses_nothing_that_was_kept(
    manifests, undisturbed, disk, tmp_path, row, start
):
    config = runs.config_for(manifests, disk.folder, "full")
    run = start(config, tmp_path)
    run.wait_for_step(4)
    filler = disk.folder / "filler"
    with filler.open("wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 65536)
            file.flush()
    run.wait_for(lambda: "could not be written" in run.said)
    status, _ = run.ended()
    assert status == 2, run.said[-3000:]
    kept = CheckpointStore(str(disk.folder / "full")).latest()
    assert kept is not None
    filler.unlink()
    status, result = start(config, tmp_path).ended()
    assert status == 0
    same_as_undisturbed(result, disk.folder / "full", undisturbed)
    row(
        "the disk of the run is full",
        "a disk of 512 MiB was filled after step 4, and space was freed after the command had ended",
        1,
        f"the run reported it, continued, and ended with status 2 and step {kept[1].step} saved; the same command then "
        "ended with all losses and weights equal, bit for bit",
    )


def test_a_disk_that_is_unmounted_under_a_run_has_all_that_was_kept_when_it_is_back(
    manifests, undisturbed, disk, tmp_path, row, start
):
    config = runs.config_for(manifests, disk.folder, "away")
    run = start(config, tmp_path)
    run.wait_for_step(4)
    disk.unmount()
    status, _ = run.ended()
    assert status == 2, run.said[-3000:]
    assert "away is gone: mount its disk again" in run.said
    assert not list(disk.folder.rglob("checkpoint-*")), "the next mount would hide them"
    disk.mount()
    status, result = start(config, tmp_path).ended()
    assert status == 0
    same_as_undisturbed(result, disk.folder / "away", undisturbed)
    row(
        "the disk of the run is unmounted",
        "umount -l after step 4; the disk was mounted again after the command had ended",
        1,
        "the run reported that its folder was gone, wrote nothing in its place, and ended with status 2; the same "
        "command then continued at step 4 and ended with all losses and weights equal, bit for bit",
    )


AWAY = {
    "refused": "connections to it were refused",
    "stopped": "its server was stopped (SIGSTOP), so that it accepted connections and did not answer,",
}


@pytest.mark.parametrize("how", AWAY)
def test_an_object_store_that_is_away_for_three_minutes_costs_no_restart(
    manifests, undisturbed, tmp_path, row, monkeypatch, start, how
):
    with stores.s3_server(tmp_path) as url:
        line, server = stores.Line(url), stores.process_of(url)
        environment = stores.environment_of(line.url) | {"XDG_CACHE_HOME": str(tmp_path)}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        store, bucket = filesystem("s3://runs")
        store.mkdir(bucket)
        config = runs.config_for(manifests, "s3://runs/of", "away", max_failures=0)
        record = TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db")  # beside no run
        # The other rank waits for the one that writes, which waits for half as long; less would leave checkpoints out.
        train = replace(config.train, collective_timeout_s=600.0)
        config = replace(config, tracking=record, train=train)
        run = start(config, tmp_path)
        step = run.wait_for_step(2)
        if how == "refused":
            line.cut()
        else:
            server.suspend()
        time.sleep(180)
        assert run.process.poll() is None, run.said[-3000:]
        if how == "refused":
            line.mend()
        else:
            server.resume()
        status, result = run.ended()
        assert status == 0, run.said[-3000:]
        assert "does not answer" in run.said
        same_as_undisturbed(result, working_folder(config.train.storage, "away"), undisturbed)
    row(
        "the object store is unavailable",
        f"{AWAY[how]} for 3 min after step {step}",
        1,
        "no worker was restarted; all losses and weights were equal, bit for bit",
    )


def test_videos_that_are_swapped_under_a_run_are_counted_and_named(manifests, tmp_path, row, start):
    """Of 24, one becomes another video, one is cut short and one is deleted."""
    videos = tmp_path / "videos"
    shutil.copytree(Path(manifests["train"]).parent, videos)
    config = runs.config_for(manifests, tmp_path, "swapped")
    config = replace(config, data=replace(config.data, root=str(videos), max_bad_fraction=0.5))
    run = start(config, tmp_path)
    run.wait_for_step(2)
    other, cut, gone = sorted((videos / "videos" / "train").iterdir())[:3]
    write_video(tmp_path / "other.mp4", num_frames=30)
    os.replace(tmp_path / "other.mp4", other)
    os.truncate(cut, cut.stat().st_size // 2)
    gone.unlink()
    status, result = run.ended()
    assert status == 0, run.said[-3000:]
    assert result["steps"] == 36
    named = [line for line in run.said.splitlines() if str(videos) in line]
    assert named, run.said[-3000:]
    row(
        "videos change during a run",
        "after step 2, one of 24 videos was replaced by another, one was cut in half and one was deleted",
        1,
        "the run named them and trained on the others; all 36 steps were taken",
    )


SMALL = {
    "128 MB of Ray's object store": ["env", "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES=128000000"],
    "256 open files": ["bash", "-c", 'ulimit -n 256 && exec "$0" "$@"'],
}


@pytest.mark.parametrize("what", SMALL)
def test_a_run_with_little_room_is_the_undisturbed_one(
    manifests, undisturbed, tmp_path, row, start, what
):
    config = runs.config_for(manifests, tmp_path, "small")
    run = start(config, tmp_path, SMALL[what])
    status, result = run.ended()
    assert status == 0, run.said[-3000:]
    same_as_undisturbed(result, tmp_path / "small", undisturbed)
    row(
        f"the run is limited to {what}",
        f"`{' '.join(SMALL[what][-1:])}` from the start",
        1,
        "all losses and weights were equal, bit for bit",
    )

"""Where checkpoints are kept: whole or not at all, the last and the best."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys

import pytest

from stm.checkpoint.format import META, MODEL, Meta
from stm.checkpoint.store import CheckpointStore
from stm.data.stream.plan import Position


def meta(step, **metrics):
    return Meta(
        config={},
        classes=["a"],
        position=Position(0, step),
        step=step,
        fingerprint="f",
        metrics=metrics,
    )


def writer(step, size=10, **metrics):
    def write(folder):
        (folder / MODEL).write_bytes(b"x" * size)
        (folder / META).write_text(meta(step, **metrics).to_json())

    return write


@pytest.fixture(params=["disk", "object store"])
def store(request, tmp_path):
    """A store on a disk, and one behind fsspec, as object stores are."""
    if request.param == "disk":
        return CheckpointStore(str(tmp_path / "run"))
    import fsspec

    filesystem = fsspec.filesystem("memory")
    if filesystem.exists("/run"):
        filesystem.rm("/run", recursive=True)
    return CheckpointStore("memory://run")


def test_the_newest_checkpoint_is_the_latest(store):
    assert store.latest() is None
    for step in (5, 100, 20):
        store.commit(step, writer(step))
    path, found = store.latest()
    assert path.endswith("checkpoint-00000100")
    assert found == meta(100)


def test_the_last_and_the_best_are_kept(store):
    for step, top1 in ((1, 0.2), (2, 0.9), (3, 0.4), (4, 0.3)):
        store.commit(step, writer(step, val_top1=top1))
        store.prune()
    assert [found.step for _, found in store.checkpoints()] == [2, 4]


def test_of_equals_the_newer_is_the_best(store):
    for step in (1, 2, 3):
        store.commit(step, writer(step, val_top1=0.5))
    store.commit(4, writer(4))  # not validated
    store.prune()
    assert [found.step for _, found in store.checkpoints()] == [3, 4]


def test_a_checkpoint_that_could_not_be_written_leaves_the_one_before(store):
    store.commit(1, writer(1))

    def fails(folder):
        (folder / MODEL).write_bytes(b"x")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        store.commit(2, fails)
    assert [found.step for _, found in store.checkpoints()] == [1]


def test_a_step_may_be_written_again(store):
    store.commit(1, writer(1, val_top1=0.1))
    store.commit(1, writer(1, val_top1=0.2))
    ((_, found),) = store.checkpoints()
    assert found.metrics == {"val_top1": 0.2}


def test_a_process_that_dies_while_writing_leaves_nothing_that_counts(tmp_path):
    script = f"""
import os
from pathlib import Path
from stm.checkpoint.store import CheckpointStore
def write(folder):
    (folder / "model.safetensors").write_bytes(b"x")
    (folder / "meta.json").write_text("{{}}")
    os._exit(1)  # whole, but not yet renamed
CheckpointStore({str(tmp_path)!r}).commit(7, write)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 1
    store = CheckpointStore(str(tmp_path))
    assert store.latest() is None
    assert len(list(tmp_path.iterdir())) == 1
    store.commit(8, writer(8))
    store.prune()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000008"]


def test_an_upload_that_stops_half_way_does_not_count():
    import fsspec

    filesystem = fsspec.filesystem("memory")
    filesystem.pipe("/half/checkpoint-00000003/model.safetensors", b"x")
    assert CheckpointStore("memory://half").latest() is None


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path):
    """On a real file system of 1 MiB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if (
        not shutil.which("mount")
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("this user may not mount a small file system")
    try:
        store = CheckpointStore(str(disk / "run"))
        store.commit(1, writer(1, size=600_000))
        with pytest.raises(OSError, match="No space left"):
            store.commit(2, writer(2, size=600_000))
        path, found = store.latest()
        assert found.step == 1
        assert os.path.getsize(f"{path}/{MODEL}") == 600_000
        assert len(os.listdir(store.run_directory)) == 1, "the half-written one is gone"
        store.commit(3, writer(3, size=100_000))
        assert store.latest()[1].step == 3
    finally:
        subprocess.run(["umount", str(disk)], check=True)

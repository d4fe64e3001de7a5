"""Where checkpoints are kept: whole or not at all, the last two and the best."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys

import pytest

from stm import storage
from stm.checkpoint import format as checkpoints
from stm.checkpoint.format import HISTORY, META, MODEL, PLUGIN, STATE, VALIDATION, Damaged, Meta
from stm.checkpoint.locate import find, resolve
from stm.checkpoint.store import SET_ASIDE, CheckpointStore, best
from stm.data.stream.plan import Position
from stm.errors import UserError
from stm.model.plugins import Plugin
from tests.logged import logged


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


def test_the_last_the_one_before_it_and_the_best_are_kept(store):
    for step, top1 in ((1, 0.2), (2, 0.9), (3, 0.4), (4, 0.3), (5, 0.1)):
        store.commit(step, writer(step, val_top1=top1))
        store.prune()
    assert [found.step for _, found in store.checkpoints()] == [2, 4, 5]


def test_of_equals_the_newer_is_the_best(store):
    for step in (1, 2, 3):
        store.commit(step, writer(step, val_top1=0.5))
    for step in (4, 5):
        store.commit(step, writer(step))  # not validated
    store.prune()
    assert [found.step for _, found in store.checkpoints()] == [3, 4, 5]


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


# ---------------------------------------------------------------------- damage


def whole(step, **changes):
    """Writes a small checkpoint with every file that there can be."""
    import torch

    torch.manual_seed(step)
    model = torch.nn.Linear(3, 2)
    state = {"optimizer": {"momentum": torch.randn(7)}, "step": step}
    plugin = Plugin(name="mine.py", source="BLOCKS = {}\n")
    described = Meta(**{**meta(step).__dict__, **changes})
    return lambda folder: checkpoints.write(
        folder, model, state, described, [{"step": step, "loss": 0.5}], plugin
    )


def cut(content):
    return content[: len(content) // 2]


def empty(content):
    return b""


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES = {"cut": cut, "empty": empty, "gone": None, "one bit": flipped}


def damage(path, how):
    """Do it to a file on a disk or in a store."""
    if DAMAGES[how] is None:
        storage.remove_file(path)
    else:
        storage.write_bytes(path, DAMAGES[how](storage.read_bytes(path)))


READERS = {
    META: checkpoints.read_meta,
    MODEL: checkpoints.read_weights,
    STATE: checkpoints.read_state,
    HISTORY: checkpoints.read_history,
}


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", [META, MODEL, STATE, HISTORY, PLUGIN])
def test_damage_is_noticed_and_the_checkpoint_before_is_taken(store, name, how):
    for step in (1, 2):
        store.commit(step, whole(step))
    before, newest = (path for path, _ in store.checkpoints())
    damage(f"{newest}/{name}", how)

    if name in READERS:
        with pytest.raises(UserError, match=name):
            READERS[name](newest)
    with logged() as said:
        path, found = store.take_whole()
    assert (path, found.step) == (before, 1)
    warned = [line for line in said if newest in line]
    assert len(warned) == 1, said
    assert name in warned[0]
    assert said[-1].endswith(f"the run continues from {before}, which is undamaged")
    assert store.latest() == (path, found), "all that ask from now on take the same one"
    assert checkpoints.read_state(path)["step"] == 1

    store.commit(2, whole(2))  # the run comes to that step again
    assert store.take_whole()[1].step == 2


@pytest.mark.parametrize("how", ["cut", "empty", "one bit"])
def test_a_damaged_validation_does_not_count_and_training_goes_on(store, how):
    path = store.commit(1, whole(1, awaits_validation=True))
    store.add_validation(path, {"val_top1": 0.75, "val_num_videos": 8.0})
    assert checkpoints.read_meta(path).metrics["val_top1"] == 0.75
    damage(f"{path}/{VALIDATION}", how)
    with logged() as said:
        _, found = store.take_whole()
    assert found.awaits_validation
    assert found.metrics == {}
    assert any("validation.json is damaged" in line and "not validated" in line for line in said)


def test_any_bit_of_the_meta_and_of_the_validation_is_noticed(tmp_path):
    """But for the case of a letter in an escape, which changes nothing."""
    store = CheckpointStore(str(tmp_path))
    path = store.commit(1, whole(1, awaits_validation=True))
    store.add_validation(path, {"val_top1": 0.75})
    right = checkpoints.read_meta(path)
    for name in (META, VALIDATION):
        file = tmp_path / os.path.basename(path) / name
        content = file.read_bytes()
        for bit in range(8 * len(content)):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            file.write_bytes(flipped)
            try:
                found = checkpoints.read_meta(path)
            except Damaged:
                assert name == META
            else:
                assert name == VALIDATION, bytes(flipped)
                assert found.metrics == {}, bytes(flipped)
        file.write_bytes(content)
    assert checkpoints.read_meta(path) == right


def test_where_none_is_whole_each_is_named_and_the_run_begins_again(store):
    for step in (1, 2):
        damage(f"{store.commit(step, whole(step))}/{STATE}", "one bit")
    said = []
    assert store.take_whole(said.append) is None
    assert [line.endswith("This checkpoint is set aside") for line in said] == [True, True, False]
    assert said[-1].endswith("so the run begins anew")
    assert store.latest() is None


def test_a_first_checkpoint_that_is_incomplete_is_told_and_the_run_begins_anew(store):
    path = store.commit(1, whole(1))
    storage.remove_file(f"{path}/{META}")
    said = []
    assert store.take_whole(said.append) is None
    assert said == [
        f"{path} has no {META}, so it is ignored",
        f"no undamaged checkpoint is left in {store.run_directory}, so the run begins anew",
    ]


def test_nothing_is_said_of_checkpoints_that_are_whole_or_not_there(store):
    said = []
    assert store.take_whole(said.append) is None
    store.commit(1, whole(1))
    assert store.take_whole(said.append)[1].step == 1
    assert not said


def test_what_is_set_aside_stays_until_the_run_has_passed_it(store):
    for step in (1, 2):
        store.commit(step, whole(step))
    damage(f"{store.latest()[0]}/{MODEL}", "cut")
    store.take_whole(lambda message: None)
    aside = f"{store.run_directory}/checkpoint-00000002/{SET_ASIDE}"
    assert json.loads(storage.read_bytes(aside))["step"] == 2
    store.prune()
    assert storage.read_bytes(aside)
    store.commit(3, whole(3))
    store.prune()
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(aside)
    assert len(storage.glob(store.run_directory, "*")) == 2


def test_a_checkpoint_without_checksums_is_read_as_before_and_its_damage_noticed(store):
    """As versions before 2026-11-26 wrote them."""

    def old(step):
        def write(folder):
            whole(step)(folder)
            values = json.loads((folder / META).read_text())
            del values["files"], values["checksum"]
            (folder / META).write_text(json.dumps(values))

        return write

    for step in (1, 2):
        store.commit(step, old(step))
    path, found = store.take_whole()
    assert (found.step, found.files) == (2, {})
    assert checkpoints.read_state(path)["step"] == 2
    assert checkpoints.read_history(path) == [{"step": 2, "loss": 0.5}]
    for name in (MODEL, STATE, HISTORY):
        content = storage.read_bytes(f"{path}/{name}")
        for how in ("cut", "empty"):
            storage.write_bytes(f"{path}/{name}", DAMAGES[how](content))
            with pytest.raises(Damaged, match=name):
                READERS[name](path)
        storage.write_bytes(f"{path}/{name}", content)
    damage(f"{path}/{STATE}", "cut")
    assert store.take_whole()[1].step == 1


def test_a_checkpoint_of_another_version_is_no_damage(store):
    store.commit(1, whole(1))

    def newer(folder):
        values = json.loads(meta(2).to_json())
        del values["checksum"]
        (folder / META).write_text(checkpoints.sealed({**values, "horizon": 3}))

    path = store.commit(2, newer)
    with pytest.raises(UserError, match=r"by another version.*horizon"):
        store.take_whole()
    assert storage.read_bytes(f"{path}/{META}"), "it is left as it is"


def test_a_run_directory_means_the_best_checkpoint_with_whole_weights(store):
    for step, top1 in ((1, 0.2), (2, 0.9), (3, 0.4)):
        store.commit(step, whole(step, metrics={"val_top1": top1}))
    best = resolve(store.run_directory)
    assert best.endswith("checkpoint-00000002")
    damage(f"{best}/{MODEL}", "one bit")
    with logged() as said:
        assert resolve(store.run_directory).endswith("checkpoint-00000003")
    assert any(best in line and "next best checkpoint is tried" in line for line in said), said
    damage(f"{store.run_directory}/checkpoint-00000003/{MODEL}", "gone")
    damage(f"{store.run_directory}/checkpoint-00000001/{MODEL}", "empty")
    with pytest.raises(UserError, match=r"model\.safetensors"):
        resolve(store.run_directory)


def test_best_is_chosen_among_validations_on_the_newest_manifest_alone(store):
    for step, (on, top1) in enumerate(
        [("a", 0.9), ("a", 0.2), ("b", 0.3), ("b", 0.4), ("b", 0.1)], 1
    ):
        store.commit(step, whole(step, metrics={"val_top1": top1}, val_fingerprint=on))
        if step == 2:
            store.prune()
            assert [meta.step for _, meta in store.checkpoints()] == [1, 2]
    assert best(store.checkpoints())[1].step == 4
    assert resolve(store.run_directory).endswith("checkpoint-00000004")
    store.prune()
    assert [meta.step for _, meta in store.checkpoints()] == [4, 5]


def test_a_new_manifest_takes_the_last_until_it_has_chosen_and_none_keeps_the_old(store):
    store.commit(1, whole(1, metrics={"val_top1": 0.9}, val_fingerprint="a"))
    store.commit(2, whole(2, metrics={"val_top1": 0.3}, val_fingerprint="a"))
    store.commit(3, whole(3))  # continued without a validation
    assert best(store.checkpoints())[1].step == 1
    store.commit(4, whole(4, val_fingerprint="b"))
    assert best(store.checkpoints())[1].step == 4
    assert find(store.run_directory).which == "last"


def test_what_a_killed_prune_left_is_removed(store):
    for step in (1, 2, 3, 4):
        store.commit(step, whole(step))
    storage.remove_file(f"{store.run_directory}/checkpoint-00000001/{META}")
    store.prune()
    assert [path.rpartition("-")[2] for path in storage.glob(store.run_directory, "*")] == [
        "00000003",
        "00000004",
    ]


def test_what_a_living_process_is_writing_is_not_pruned(tmp_path):
    script = f"""
import sys
from pathlib import Path
from stm.checkpoint.store import CheckpointStore
def write(folder):
    (folder / "model.safetensors").write_bytes(b"x")
    print("writing", flush=True)
    sys.stdin.readline()
CheckpointStore({str(tmp_path)!r}).commit(9, write)
"""
    other = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "writing\n"
        store = CheckpointStore(str(tmp_path))
        store.commit(8, whole(8))
        store.prune()
        assert len(list(tmp_path.glob(".partial-checkpoint-00000009-*"))) == 1
    finally:
        other.kill()
        other.communicate()
    store.prune()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000008"]

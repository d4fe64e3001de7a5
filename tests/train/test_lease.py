"""One driver a run: refused while another lives, taken from a dead one, and no commits without it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stm import storage
from stm.checkpoint import lease
from stm.checkpoint.format import META, Meta
from stm.checkpoint.lease import NAME, Leased, hold
from stm.checkpoint.store import CheckpointStore
from stm.data.stream.plan import Position
from tests.logged import logged

HOLDER = """
import sys
from stm.checkpoint.lease import hold
with hold(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def driver(tmp_path):
    """A driver of the run in ``tmp_path``, in a process of its own, which ends when it is told something."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def elsewhere(monkeypatch):
    """As if what other processes hold were held on another machine; heartbeats come and are missed quickly."""
    monkeypatch.setattr(lease, "lives", lambda owner: None)
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    monkeypatch.setattr(lease, "SILENT_S", 2.0)


def test_a_second_driver_is_refused_while_the_first_lives(driver, tmp_path):
    before = (tmp_path / NAME).read_bytes()
    with pytest.raises(Leased, match=rf"process {driver.pid} on .*choose another") as told:
        hold(str(tmp_path)).__enter__()
    assert str(tmp_path) in str(told.value)
    os.kill(driver.pid, signal.SIGSTOP)  # frozen, but not dead
    with pytest.raises(Leased):
        hold(str(tmp_path)).__enter__()
    os.kill(driver.pid, signal.SIGCONT)
    assert json.loads(before)["token"] == json.loads((tmp_path / NAME).read_bytes())["token"]


def test_a_driver_that_ended_leaves_no_lease(driver, tmp_path):
    driver.communicate("end\n")
    assert driver.returncode == 0
    assert not (tmp_path / NAME).exists()


def test_the_lease_of_a_killed_driver_is_taken_with_a_word(driver, tmp_path):
    driver.kill()
    driver.wait()
    with logged() as said, hold(str(tmp_path)):
        assert json.loads((tmp_path / NAME).read_bytes())["pid"] == os.getpid()
    assert any(f"process {driver.pid} on" in line and "which is dead" in line for line in said)
    assert not (tmp_path / NAME).exists()


def test_this_process_does_not_drive_a_run_twice(tmp_path):
    with hold(str(tmp_path)), pytest.raises(Leased, match=f"process {os.getpid()} "):
        hold(str(tmp_path)).__enter__()


def test_a_lease_that_this_process_could_not_give_back_is_no_driver(tmp_path, monkeypatch):
    """As in an outage of the store."""

    def away(path):
        raise OSError(errno.EIO, "away")

    with monkeypatch.context() as outage:
        outage.setattr(lease, "remove_file", away)
        with hold(str(tmp_path)):
            pass
    assert (tmp_path / NAME).exists()
    with hold(str(tmp_path)) as taken:
        taken.check()


@pytest.fixture(params=["disk", "object store"])
def run(request, tmp_path):
    return str(tmp_path) if request.param == "disk" else f"memory://lease-{tmp_path.name}/run"


def test_on_another_machine_heartbeats_tell_who_lives(run, elsewhere):
    with logged() as said, hold(run), pytest.raises(Leased, match="One driver at a time"):
        hold(run).__enter__()
    assert any("waiting up to 2 s for a heartbeat" in line for line in said)


def test_on_another_machine_silence_tells_who_is_dead(run, elsewhere):
    dead = lease.Lease(run)
    dead.take()
    dead._ended.set()  # its heartbeats end
    dead._thread.join()
    with logged() as said, hold(run) as taken:
        with pytest.raises(Leased):
            dead.check()
        dead.release()  # it wakes up and ends: the lease is not its own
        taken.check()
    assert any("which is dead" in line for line in said)
    assert storage.glob(run, NAME) == []


def test_a_driver_that_lost_its_lease_says_so_and_its_workers_commit_nothing(run, elsewhere):

    def write(folder):
        meta = Meta(config={}, classes=[], position=Position(), step=1, fingerprint="f")
        (folder / META).write_text(meta.to_json())

    with logged() as said, hold(run) as first:
        workers = CheckpointStore(run, first.token)
        workers.commit(1, write)
        other = {**json.loads(storage.read_bytes(f"{run}/{NAME}")), "token": "other", "pid": 4711}
        first._ended.set()
        first._thread.join()
        storage.write_bytes(f"{run}/{NAME}", json.dumps(other).encode())
        first._ended.clear()
        first._beat()
        with pytest.raises(Leased, match="process 4711"):
            workers.commit(2, write)
    assert any("process 4711" in line and "ends at its next checkpoint" in line for line in said)
    assert [found.step for _, found in workers.checkpoints()] == [1]
    assert json.loads(storage.read_bytes(f"{run}/{NAME}"))["token"] == "other"


def test_a_full_disk_is_no_reason_not_to_begin(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lease, "write_bytes", full)
    with logged() as said, hold(str(tmp_path)) as taken:
        taken.check()
    assert any(
        "a second driver would not be noticed" in line and "No space" in line for line in said
    )


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"null", b'{"token": "a"}'])
def test_a_damaged_lease_is_nobodys(tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    with hold(str(tmp_path)) as taken:
        taken.check()

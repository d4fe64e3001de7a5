"""Calls in a process that may hang or die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stm.data.decode import VideoError
from stm.data.isolation import CallFailed, IsolatedProcess
from tests.data import probes


@pytest.fixture
def process() -> Iterator[IsolatedProcess]:
    with IsolatedProcess() as process:
        yield process


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_one_process_serves_many_calls_and_is_not_ours(process: IsolatedProcess) -> None:
    first, second = (process.call(probes.process_id, deadline_s=30) for _ in range(2))
    assert first == second != os.getpid()


def test_files_of_the_folder_one_stands_in_are_no_modules_of_pythons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("random", "pickle", "tempfile"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('of the user')")
    monkeypatch.chdir(tmp_path)
    with IsolatedProcess() as process:
        assert process.call(probes.process_id, deadline_s=30) != os.getpid()


def test_a_call_past_its_deadline_is_given_up_and_the_next_one_is_served(
    process: IsolatedProcess,
) -> None:
    pid = process.call(probes.process_id, deadline_s=30)
    with pytest.raises(CallFailed, match=r"within 0\.5 s") as failed:
        process.call(probes.sleep, 600, deadline_s=0.5)
    assert failed.value.reason == "deadline"
    assert not _is_alive(pid)
    assert process.call(probes.process_id, deadline_s=30) != pid


def test_a_death_is_told_with_its_exit_status(process: IsolatedProcess) -> None:
    with pytest.raises(CallFailed, match="exit status 7") as failed:
        process.call(probes.die, 7, deadline_s=30)
    assert failed.value.reason == "crashed"


def test_a_death_after_other_calls_is_tried_again_in_a_fresh_process(
    process: IsolatedProcess, tmp_path: Path
) -> None:
    process.call(probes.process_id, deadline_s=30)
    assert process.call(probes.die_once, str(tmp_path / "died"), deadline_s=30) == "alive"


def test_what_the_function_raises_arrives_as_it_is(process: IsolatedProcess) -> None:
    with pytest.raises(VideoError) as raised:
        process.call(probes.raise_video_error, "a.mp4", deadline_s=30)
    assert (raised.value.path, raised.value.reason) == ("a.mp4", "truncated")


def test_an_error_that_cannot_travel_arrives_in_words(process: IsolatedProcess) -> None:
    with pytest.raises(RuntimeError, match="OddError: 1 and 2"):
        process.call(probes.raise_odd, deadline_s=30)


def test_a_process_that_cannot_start_is_our_error_and_no_verdict_on_the_file() -> None:
    with (
        IsolatedProcess(preload=["stm.no_such_module"]) as process,
        pytest.raises(RuntimeError, match="no_such_module"),
    ):
        process.call(probes.process_id, deadline_s=30)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_the_child_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    script = (
        "from stm.data.isolation import IsolatedProcess; from tests.data import probes; "
        f"IsolatedProcess().call(probes.sleep_after_noting_process, {str(note)!r}, deadline_s=600)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", script], env=environment)
    try:
        _wait_until(lambda: note.exists() and note.read_text() != "")
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    child = int(note.read_text())
    _wait_until(lambda: not _is_alive(child))


def _wait_until(condition) -> None:  # type: ignore[no-untyped-def]
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("waited 60 s in vain")

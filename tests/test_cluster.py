"""Connecting: what a cluster on this machine says in the terminal, and what is said where it does not start."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.ray


def test_that_many_processes_were_started_is_left_out_and_nothing_else(ray_cluster, capsys):
    from ray._private import worker

    from stm import ray_compat

    many = "WARNING: 8 PYTHON worker processes have been started on node: abc"
    ray_compat.hush_process_counts()  # a second time changes nothing
    for lines in ([many], [many, "a disk is full"]):
        worker.print_to_stdstream(
            {"lines": lines, "pid": "raylet", "is_err": False, "ip": "127.0.0.1", "job": None},
            ignore_prefix=False,
        )
    told = capsys.readouterr().out
    assert "a disk is full" in told
    assert "PYTHON worker processes" not in told


ROOT = Path(__file__).parents[1]


def connecting(folder, **environment):
    """A process that starts Ray as verbs do; its lines go to ``folder/said``."""
    code = (
        "import sys, types\nfrom pipelines.console import run_verb\n"
        "def connect(*, address: str | None = None, json: bool = False) -> dict:\n"
        "    'Start Ray.'\n"
        "    from stm import cluster\n"
        "    cluster.connect('local')\n"
        "    return {}\n"
        "module = types.ModuleType('pipelines.connect', 'Start Ray.')\n"
        "module.connect = connect\n"
        "sys.exit(run_verb(module, []))"
    )
    with (folder / "said").open("w") as said:
        return subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stderr=said, env={**os.environ, **environment}
        )


def test_what_stays_as_it_is_is_not_tried_again(tmp_path):
    process = connecting(tmp_path, RAY_TMPDIR=str(tmp_path / ("long" * 30)))
    assert process.wait(200) == 2
    said = (tmp_path / "said").read_text()
    assert "starting Ray on this machine\n" in said
    assert "Ray does not start on this machine: " in said
    assert "Tried once: wait until the machine is less busy" in said
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("frozen", "status"), [(1, 0), (3, 2)])
def test_a_raylet_that_does_not_answer_is_tried_three_times(tmp_path, frozen, status):
    """Frozen as on a machine that is too busy: the first alone, or each of the three."""
    process = connecting(tmp_path, RAY_raylet_start_wait_time_s="5")
    seen = set()
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(process.pid).children():
                if child.name() == "raylet" and child.pid not in seen and len(seen) < frozen:
                    seen.add(child.pid)
                    child.suspend()
        time.sleep(0.01)
    said = (tmp_path / "said").read_text()
    assert process.returncode == status, said
    assert len(seen) == frozen
    assert said.count("trying again (2 of 3)") == 1
    assert ("Tried 3 times: wait until" in said) == (status == 2)
    assert "Traceback" not in said
    assert not any(psutil.pid_exists(pid) for pid in seen)

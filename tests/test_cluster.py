"""Connecting: what a cluster on this machine says in the terminal."""

from __future__ import annotations

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

"""What scenarios share: videos, the run that nothing happens to, and the table of what was seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from stm.plural import counted
from stm.spool import series
from tests.chaos import runs, table

WRITES = "STM_CHAOS_TABLE"
"""Set by `make chaos`: rows are kept and written into docs/reliability.md."""


@pytest.fixture(scope="session")
def manifests(tmp_path_factory):
    """Made by a process of its own, so that no cluster of this one takes part."""
    folder = tmp_path_factory.mktemp("videos")
    code = (
        "from pathlib import Path; from stm import cluster; from tests.chaos.runs import make_manifests\n"
        f"cluster.connect('local', num_cpus=2); make_manifests(Path({str(folder)!r}))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=runs.ROOT, check=True, timeout=900)
    return {split: str(folder / f"{split}.parquet") for split in ("train", "val")}


@pytest.fixture(scope="session")
def undisturbed(manifests, tmp_path_factory):
    """(result, losses, seconds) of a run that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    began = time.monotonic()
    config = runs.config_for(manifests, folder, "whole")
    process = runs.start(config, folder / "log.txt")
    out, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, (folder / "log.txt").read_text()[-3000:]
    losses = series(folder / "whole" / "tracking.jsonl", "train/loss")
    return json.loads(out), losses, time.monotonic() - began


@pytest.fixture
def row(request):
    """``row(fault, done, times, outcome)`` notes what this scenario saw."""

    def note(fault: str, done: str, times: int, outcome: str) -> None:
        print(f"\n{fault}: {done} ({counted(times, 'time')}): {outcome}")
        if WRITES in os.environ:
            table.note(request.node.name, fault, done, times, outcome)

    return note


def pytest_sessionfinish() -> None:
    if WRITES in os.environ and table.RESULTS.exists():
        table.write()

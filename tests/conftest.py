"""Shared by all tests: a Ray cluster for the session, real clips, markers, and a check of what a test changes."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.process_state import OF_MLFLOW, ProcessState

# No test depends on time, because machines are shared and sometimes slow.
settings.register_profile("stm", deadline=None, max_examples=60)
settings.load_profile("stm")

# nohup, and a shell that starts pytest in the background, ignore signals, and child processes would inherit that.
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark a test whose fixtures start Ray as `ray`, which `make test-fast` leaves out, and check the test's name."""
    if "ray_cluster" in getattr(item, "fixturenames", ()):
        item.add_marker("ray")
    name = item.originalname if isinstance(item, pytest.Function) else item.name
    if len(name) >= 80:
        raise pytest.UsageError(
            f"{item.nodeid}: the name of a test must have fewer than 80 letters"
        )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests of a tool that is not installed, unless `-m tool` requests them."""
    if "tool" in config.option.markexpr:
        return
    absent = [i for i in items if not all(_is_here(m.args[0]) for m in i.iter_markers("tool"))]
    if absent:
        config.hook.pytest_deselected(items=absent)
        items[:] = [item for item in items if item not in set(absent)]


@functools.cache
def _is_here(tool: str) -> bool:
    name, _, release = tool.partition(" ")
    if name == "torchcodec":
        return importlib.util.find_spec(name) is not None
    programs = ["chromium", "chromium-browser", "google-chrome"] if name == "chromium" else [name]
    if not any(map(shutil.which, programs)):
        return False
    if not release:
        return True
    version = subprocess.run([name, "-version"], capture_output=True, text=True).stdout
    found = re.match(r"\w+ version \D*(\d+)", version)
    return found is None or int(found[1]) >= int(release)


_found = pytest.StashKey[ProcessState]()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    for name in OF_MLFLOW:
        os.environ.pop(name, None)
    item.stash[_found] = ProcessState.now()
    yield


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Fail a test that has changed the state of its process, after the teardown of its fixtures."""
    yield
    before, now = item.stash[_found], ProcessState.now()
    changed = now.changed(before)
    if changed:
        before.restore()
        pytest.fail("the test left its process changed:\n" + "\n".join(changed), pytrace=False)


def _real_data() -> Path | None:
    beside = Path(__file__).parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("STM_TEST_DATA", beside)).resolve()
    return folder if folder.is_dir() else None


REAL_DATA = _real_data()
"""Folder of real clips and lists: ``STM_TEST_DATA``, or shared/data beside this repository; None without one."""


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Start a cluster on this machine with four logical CPUs, for the whole session."""
    import ray

    from stm import cluster

    cluster.connect("local", num_cpus=4)
    yield
    ray.shutdown()


@pytest.fixture(scope="session", params=["made", "real"] if REAL_DATA else ["made"])
def made_or_real(request: pytest.FixtureRequest) -> Path | None:
    """Return None, for which a test makes its files, and, if there is one, the folder of real clips and lists."""
    return REAL_DATA if request.param == "real" else None

"""Fixtures that tests share: one Ray cluster for the session, and the folder of real clips."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Time decides no test: machines are shared and slow at times.
settings.register_profile("stm", deadline=None, max_examples=60)
settings.load_profile("stm")

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A cluster on this machine with four logical CPUs, for the whole session."""
    import ray

    from stm import cluster

    cluster.connect("local", num_cpus=4)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real clips (``STM_TEST_DATA``); the test is skipped where it is missing."""
    folder = Path(
        os.environ.get("STM_TEST_DATA", Path(__file__).parents[1] / ".." / "shared" / "data")
    ).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real clips at {folder}: set STM_TEST_DATA to their folder")
    return folder


def pytest_itemcollected(item: pytest.Item) -> None:
    name = item.originalname if isinstance(item, pytest.Function) else item.name
    if len(name) >= 80:
        raise pytest.UsageError(f"{item.nodeid}: the name of a test has fewer than 80 letters")

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


def _real_data() -> Path | None:
    beside = Path(__file__).parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("STM_TEST_DATA", beside)).resolve()
    return folder if folder.is_dir() else None


REAL_DATA = _real_data()
"""Folder of real clips and lists: ``STM_TEST_DATA``, or one beside this repository."""


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A cluster on this machine with four logical CPUs, for the whole session."""
    import ray

    from stm import cluster

    cluster.connect("local", num_cpus=4)
    yield
    ray.shutdown()


@pytest.fixture(scope="session", params=["made", "real"] if REAL_DATA else ["made"])
def made_or_real(request: pytest.FixtureRequest) -> Path | None:
    """None, for which a test makes its files; and where there is one, the folder of real clips and lists."""
    return REAL_DATA if request.param == "real" else None

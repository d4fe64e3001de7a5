"""Ray beyond its public API: in one file, there in the Ray that is installed, and missed without harm in another."""

from __future__ import annotations

import ast
import inspect
import random
import socket
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from stm import ray_compat

ROOT = Path(__file__).parents[1]


def private_names_of_ray(source: str) -> list[str]:
    """What a source imports from within Ray, and the private arguments that it gives to ``ray.init``."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{each.name}" for each in node.names]
        elif isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("ray."):
            names = [f"ray.{each.arg}" for each in node.keywords if each.arg]
        found += [name for name in names if name.startswith("ray.") and "._" in name]
        if isinstance(node, ast.Attribute) and node.attr == "_server_ray_version":
            found.append(node.attr)
    return found


def test_no_other_file_uses_what_ray_does_not_promise():
    assert private_names_of_ray("from ray._private import worker\nray.init(_temp_dir='x')")
    found = {
        path.relative_to(ROOT).as_posix(): names
        for path in [*ROOT.glob("stm/**/*.py"), *ROOT.glob("pipelines/**/*.py")]
        if (names := private_names_of_ray(path.read_text()))
    }
    assert set(found) == {"stm/ray_compat.py"}


def test_this_ray_has_all_of_it():
    """Where this fails, a new Ray lacks something: see what `stm.ray_compat` says of life without it."""
    import ray
    from ray._private import services, utils, worker
    from ray._private.state import state
    from ray.data import DataContext
    from ray.job_submission import JobSubmissionClient
    from ray.train.torch import TorchTrainer

    assert ray.__version__.startswith(f"{ray_compat.SEEN_WITH}.")
    for name in ("print_to_stdstream", "get_dashboard_url", "global_worker"):
        assert hasattr(worker, name), name
    assert hasattr(worker, "_global_node")
    assert hasattr(services, "get_node")
    taken = inspect.signature(services.start_raylet).parameters
    assert set(ray_compat._AGENT_PORTS) < set(taken)
    for name in ("set_sigterm_handler", "set_kill_on_parent_death_linux"):
        assert hasattr(utils, name), name
    assert "= ray._raylet.CoreWorker(" in Path(str(inspect.getsourcefile(worker))).read_text()
    assert hasattr(TorchTrainer, "_register_sigint_handler")
    assert callable(state.get_max_resources_from_cluster_config)
    assert ray_compat.execution_callback() is not object
    assert hasattr(DataContext.get_current(), "custom_execution_callback_classes")
    source = Path(str(inspect.getsourcefile(JobSubmissionClient))).read_text()
    assert "_server_ray_version" in source


@pytest.mark.ray
def test_what_a_task_and_a_cluster_tell(ray_cluster):
    import ray

    assert ray.get(ray.remote(ray_compat.task_attempt).remote()) == 0
    assert ray_compat.task_attempt() == 0
    assert ray_compat.has_dashboard() is False
    assert ray_compat.most_of("CPU") is None


@pytest.fixture
def other_ray(monkeypatch):
    """A Ray whose private modules hold nothing."""
    from ray._private import worker

    for name in ("print_to_stdstream", "get_dashboard_url", "global_worker"):
        monkeypatch.delattr(worker, name)
    monkeypatch.setitem(sys.modules, "ray._private.state", None)
    monkeypatch.delattr("ray._private.services.canonicalize_bootstrap_address")
    monkeypatch.setitem(sys.modules, "grpc", None)
    monkeypatch.setitem(sys.modules, "ray.data._internal.execution.execution_callback", None)


def test_without_them_nothing_breaks(other_ray):
    ray_compat.hush_process_counts()
    assert ray_compat.has_dashboard() is True
    assert ray_compat.most_of("CPU") is None
    assert ray_compat.head_here() is None
    assert ray_compat.refuses("127.0.0.1:1", None) is False
    assert ray_compat.task_attempt() == 0
    assert ray_compat.execution_callback() is object
    context = SimpleNamespace(custom_execution_callback_classes=[])
    ray_compat.add_execution_callback(context, object)
    assert context.custom_execution_callback_classes == []
    import ray

    assert ray_compat.server_version(object()) == ray.__version__


def test_a_callback_joins_those_that_are_there():
    context = SimpleNamespace(custom_execution_callback_classes=[int])
    ray_compat.add_execution_callback(context, str)
    assert context.custom_execution_callback_classes == [int, str]
    ray_compat.add_execution_callback(older := SimpleNamespace(), str)
    assert vars(older) == {}


@pytest.mark.long
def test_an_executor_that_is_slow_to_end_is_waited_for(ray_cluster):
    """Ray waits 2 s for it and goes on; what it then asks of a Ray that was shut down ends the process, status 1."""
    import ray.data

    class Slow(ray_compat.execution_callback()):
        def on_execution_step(self, executor):
            time.sleep(4)

    def executors():
        return [t for t in threading.enumerate() if t.name.startswith("StreamingExecutor-")]

    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    ray_compat.add_execution_callback(context, Slow)
    with ray.data.DataContext.current(context):
        rows = ray.data.range(100, override_num_blocks=50).map(lambda row: row).iter_rows()
        next(iter(rows))
    assert executors()
    ray_compat.end_executions()
    assert not executors()


def test_ports_of_agents_are_none_that_the_system_gives_away():
    """Between the choice and Ray's bind, seconds on a busy machine, another connection could get such a port."""
    random.seed(0)
    first = ray_compat._free_ports(4)
    random.seed(0)
    assert ray_compat._free_ports(4) != first, "two commands with one seed must not choose the same"
    with socket.socket() as given:
        given.bind(("", 0))
        assert given.getsockname()[1] > max(first)
    assert len(set(first)) == 4

"""What stm uses of Ray beyond its public API: every such access is here, guarded, and was seen with Ray 2.60.

| what | of Ray | without it |
|---|---|---|
| `hush_process_counts` | ``ray._private.worker.print_to_stdstream`` | a warning shows in the terminal |
| `torch_trainer` | ``TorchTrainer._register_sigint_handler`` | Ctrl-C ends a training as Ray does |
| `has_dashboard` | ``ray._private.worker.get_dashboard_url`` | a dashboard is taken to run |
| `most_of` | ``ray._private.state.state`` | what nodes may come is not known |
| `execution_callback` | ``ray.data._internal.execution.execution_callback`` | an executor that waits uses a core |
| `task_attempt` | ``ray._private.worker.global_worker`` | no second try is isolated: a bad file ends the run |
| `signals_are_ours` | ``ray._private.utils.set_sigterm_handler``, `set_kill_on_...` | SIGTERM keeps no checkpoint |
| `head_here` | ``ray._private.services.canonicalize_bootstrap_address`` | `auto` is not looked at before Ray joins |
| `patient_start` | three functions of ``ray._private.services`` | on a busy machine Ray does not start |
| `raylet_here` | ``ray._private.worker._global_node`` | a Ray that dies ends the command without a word of ours |
| `refuses` | the name of a call of GCS, ``GetClusterId`` | a token that is not the cluster's is told after a minute |
| `server_version` | ``JobSubmissionClient._server_ray_version`` | our version is taken for the cluster's |

No import of Ray is made before a function here is called.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

SEEN_WITH = "2.60"

_PROCESS_COUNT = "PYTHON worker processes have been started on node"


def hush_process_counts() -> None:
    """Leave out of the terminal that a node has started many processes for its cores: on one machine it must.

    Each part of a run is a process here, most of them waiting. Ray has no setting for this warning, and prints it by a
    private function; without that function nothing is left out.
    """
    worker = _worker()
    show = getattr(worker, "print_to_stdstream", None)
    if show is None or getattr(show, "leaves_out", False):
        return

    def show_the_rest(data: Any, *arguments: Any, **keywords: Any) -> None:
        lines = [line for line in data["lines"] if _PROCESS_COUNT not in line]
        if lines:
            show({**data, "lines": lines}, *arguments, **keywords)

    show_the_rest.leaves_out = True  # type: ignore[attr-defined]
    worker.print_to_stdstream = show_the_rest


@contextlib.contextmanager
def signals_are_ours() -> Iterator[None]:
    """While Ray starts: signals for this command stay its own.

    Ray would replace a handler of SIGTERM that the program has set, twice: in Python, and below it by one that prints
    addresses and aborts after 3 s. And its processes would be ended by a signal that is sent to the command's group, as
    `timeout` and a terminal that closes do, before the command can keep anything.
    """
    from ray._private import utils

    set_handler: Any = getattr(utils, "set_sigterm_handler", None)
    in_child: Any = getattr(utils, "set_kill_on_parent_death_linux", None)
    handler = signal.getsignal(signal.SIGTERM)
    elsewhere = threading.current_thread() is not threading.main_thread()
    if None in (set_handler, in_child) or handler in (signal.SIG_DFL, None) or elsewhere:
        yield
        return

    def apart() -> None:
        os.setpgrp()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        in_child()

    utils.set_sigterm_handler = lambda _: None
    utils.set_kill_on_parent_death_linux = apart
    try:
        yield
    finally:
        utils.set_sigterm_handler = set_handler
        utils.set_kill_on_parent_death_linux = in_child
        signal.signal(signal.SIGTERM, handler)


_AGENT_PORTS = (
    "metrics_agent_port",
    "metrics_export_port",
    "dashboard_agent_listen_port",
    "runtime_env_agent_port",
)


@contextlib.contextmanager
def patient_start(times: int = 3) -> Iterator[None]:
    """While Ray starts on a machine that is busy: its raylet waits for no agent, and is waited for as long as it lives.

    A raylet aborts where its agents, which are Python, have not told their ports within 15 s (Ray's issue 65983): here
    they are told which ports to take. And Ray asks once whether its raylet is up; it is asked ``times`` as often.
    """
    from ray._private import services

    names = ("start_raylet", "start_ray_process", "get_node")
    start, run, ask = before = [getattr(services, name, None) for name in names]
    if None in before:
        yield
        return
    chosen = dict(zip(_AGENT_PORTS, _free_ports(len(_AGENT_PORTS)), strict=True))

    def start_with_ports(*arguments: Any, **keywords: Any) -> Any:
        given = {name: keywords.get(name) or port for name, port in chosen.items()}
        return start(*arguments, **{**keywords, **given})  # type: ignore[misc]

    def run_with_port(command: list[str], process_type: str, *more: Any, **keywords: Any) -> Any:
        if process_type == "raylet":  # Ray tells the agent this one, and not its raylet
            name = "dashboard_agent_listen_port"
            command = [*command, f"--{name}={chosen[name]}"]
        return run(command, process_type, *more, **keywords)  # type: ignore[misc]

    def ask_again(*arguments: Any) -> Any:
        for _ in range(times - 1):
            try:
                return ask(*arguments)  # type: ignore[misc]
            except RuntimeError:
                if not _raylet_lives():
                    break
        return ask(*arguments)  # type: ignore[misc]

    ours = (start_with_ports, run_with_port, ask_again)
    for name, function in zip(names, ours, strict=True):
        setattr(services, name, function)
    try:
        yield
    finally:
        for name, theirs in zip(names, before, strict=True):
            setattr(services, name, theirs)


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(socket.create_server(("", 0))) for _ in range(number)]
        return [int(each.getsockname()[1]) for each in opened]


def _raylet_lives() -> bool:
    """Whether this process has a raylet that runs."""
    import psutil

    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if child.name() == "raylet" and child.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def torch_trainer(started: Callable[[Any], None]) -> type:
    """``ray.train.torch.TorchTrainer`` that leaves Ctrl-C to us, and calls ``started(controller)``.

    Ray's own handler ends the process with exit status 0 when Ctrl-C is pressed three times.
    """
    from ray.train.torch import TorchTrainer

    class Trainer(TorchTrainer):
        def _register_sigint_handler(self, controller: Any) -> None:
            started(controller)

    return Trainer


def has_dashboard() -> bool:
    """Whether the connected cluster runs Ray's dashboard; True where Ray does not tell."""
    address = getattr(_worker(), "get_dashboard_url", None)
    return True if address is None else bool(address())


def most_of(name: str) -> float | None:
    """How much of a resource the nodes of the cluster's autoscaler may have in all; None where it does not say.

    KubeRay's does; that of `ray up` does not in Ray 2.60.
    """
    try:
        from ray._private.state import state

        limits = state.get_max_resources_from_cluster_config()
    except Exception:  # without an answer we wait and see
        return None
    return None if limits is None else float(limits.get(name, 0.0))


def task_attempt() -> int:
    """How often Ray has run this task before; it tells nowhere but in its core worker. 0 where that does not tell."""
    core_worker = getattr(getattr(_worker(), "global_worker", None), "core_worker", None)
    attempt = getattr(core_worker, "get_current_task_attempt_number", None)
    return 0 if attempt is None else int(attempt())


def head_here() -> str | None:
    """HOST:PORT of the cluster that ``auto`` means on this machine; None where Ray does not tell.

    Raises ``ConnectionError`` where there is none.
    """
    try:
        from ray._private import services
    except ImportError:
        return None
    find = getattr(services, "canonicalize_bootstrap_address", None)
    if find is None:
        return None
    found = find("auto") or next(iter(services.find_gcs_addresses()), None)
    if found in (None, "auto"):
        raise ConnectionError("no Ray cluster runs on this machine")
    return str(found)


def raylet_here() -> tuple[int, str] | None:
    """Process of the raylet that this program is connected to, and where it logs; None where Ray does not tell.

    A driver whose raylet is gone waits without end, until it sends something: then Ray ends it, with status 1.
    """
    import psutil

    node = getattr(_worker(), "_global_node", None)
    name, logs = getattr(node, "raylet_socket_name", None), getattr(node, "_logs_dir", "")
    if name is None:
        return None
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() == "raylet" and any(name in word for word in process.cmdline()):
                return process.pid, str(logs)
    return None


def refuses(where: str, token: str | None) -> bool:
    """Whether the cluster with its GCS at HOST:PORT does not accept our token, or that we have none."""
    try:
        import grpc
    except ImportError:
        return False
    shown = [("authorization", f"Bearer {token}")] if token else []
    try:
        with grpc.insecure_channel(where) as channel:
            ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")
            ask(b"", timeout=5.0, metadata=shown)
    except grpc.RpcError as error:
        return bool(error.code() == grpc.StatusCode.UNAUTHENTICATED)
    return False


def server_version(client: Any) -> str:
    """Ray's version on the cluster of a ``JobSubmissionClient``; ours where it does not tell."""
    import ray

    return str(getattr(client, "_server_ray_version", ray.__version__))


def execution_callback() -> type:
    """The class of what Ray Data calls after each step of its scheduling loop; ``object`` where there is none."""
    try:
        from ray.data._internal.execution.execution_callback import ExecutionCallback
    except ImportError:
        return object
    return ExecutionCallback


def add_execution_callback(context: Any, callback: type) -> None:
    """Have Ray Data call one in executions under a ``DataContext``; nothing where Ray has no such calls."""
    known = getattr(context, "custom_execution_callback_classes", None)
    if known is not None and execution_callback() is not object:
        context.custom_execution_callback_classes = [*known, callback]


def _worker() -> Any:
    try:
        from ray._private import worker
    except ImportError:
        return None
    return worker
